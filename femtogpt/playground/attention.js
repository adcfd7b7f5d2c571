// Where heads look: a map of each, and a strip of tokens shaded by the chosen one.

const MAP_BLUE = [58, 134, 214]; // seen on light and on dark

class Attention {
  /** within: the element <details>; ask: (ids) -> what /api/attention answers. */
  constructor(within, ask) {
    const find = (name) => within.querySelector(`.${name}`);
    [this.within, this.ask] = [within, ask];
    [this.note, this.heads, this.chosen, this.strip, this.looks] =
      ["note", "heads", "chosen", "strip", "looks"].map(find);
    this.ids = [];
    this.head = 0;
    within.addEventListener("toggle", () => this.draw());
    this.heads.addEventListener("click", ({ target }) => this.choose(target.closest("button")));
    this.heads.addEventListener("keydown", (event) => this.move(event));
    for (const kind of ["pointerover", "focusin"]) {
      this.strip.addEventListener(kind, ({ target }) => this.shade(target.place));
    }
    this.strip.addEventListener("keydown", (event) => moveFocus(event, this.strip, "span"));
  }

  /** The text's ids by now: drawn at once, or when it is opened. */
  set(ids) {
    this.ids = ids;
    this.drawn = false;
    this.draw();
  }

  async draw() {
    if (!this.within.open || this.drawn) return;
    if (!this.ids.length) {
      this.note.textContent = "Generate a text, and this draws where each head looks.";
      return;
    }
    this.drawn = true;
    const { ids } = this;
    this.note.textContent = "Looking …";
    this.note.classList.remove("error");
    try {
      const found = await this.ask(ids);
      if (ids === this.ids) this.show(found);
    } catch (error) {
      this.note.textContent = error.message;
      this.note.classList.add("error");
    }
  }

  show({ step, pieces, layers, heads, weights }) {
    const n = pieces.length;
    Object.assign(this, { n, pieces, columns: heads, count: layers * heads,
      weights: Uint8Array.from(atob(weights), (c) => c.charCodeAt(0)) });
    this.head = Math.min(this.head, this.count - 1);
    this.note.textContent = `The last ${n} tokens of the text, read at step ${step}. A row of maps `
      + "is a layer. In a map a row is a token, and what it looks at, itself and what is before "
      + "it, is blue.";
    this.heads.replaceChildren();
    this.heads.style.gridTemplateColumns = `repeat(${heads}, minmax(2.2rem, 7rem))`;
    for (let head = 0; head < this.count; head++) this.heads.append(this.map(head));
    this.strip.replaceChildren();
    pieces.forEach((piece, place) => {
      const span = make("span", this.strip, piece.replaceAll("\n", "↵\n") || "∅");
      span.place = place;
      span.tabIndex = place === n - 1 ? 0 : -1;
    });
    this.choose(this.heads.children[this.head]);
  }

  name(head) {
    return `layer ${Math.floor(head / this.columns) + 1}, head ${head % this.columns + 1}`;
  }

  map(head) {
    const { n } = this, button = make("button", null), canvas = make("canvas", button);
    button.type = "button";
    button.head = head;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", this.name(head));
    button.title = this.name(head);
    [canvas.width, canvas.height] = [n, n];
    const image = new ImageData(n, n);
    for (let i = 0; i < n * n; i++) {
      image.data.set(MAP_BLUE, 4 * i);
      image.data[4 * i + 3] = this.weights[head * n * n + i];
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return button;
  }

  choose(button) {
    if (!button) return;
    this.head = button.head;
    for (const other of this.heads.children) {
      other.setAttribute("aria-checked", other === button);
      other.tabIndex = other === button ? 0 : -1;
    }
    this.chosen.textContent = `${this.name(this.head)}: point at a token to see what it looks at.`;
    this.shade(this.place < this.n ? this.place : this.n - 1);
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns };
    const to = this.heads.children[this.head + step[event.key]];
    if (!to) return;
    event.preventDefault();
    this.choose(to);
    to.focus();
  }

  /** Shows what the token at a place looks at. */
  shade(place) {
    if (place === undefined) return;
    const { n } = this, spans = this.strip.children;
    const from = this.head * n * n + place * n, row = this.weights.subarray(from, from + n);
    this.place = place;
    for (let i = 0; i < n; i++) {
      spans[i].style.backgroundColor = row[i] ? `rgb(${MAP_BLUE.join(" ")} / ${row[i] / 255})` : "";
      spans[i].className = i === place ? "from" : "";
    }
    const most = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 3).filter((i) => row[i]);
    this.looks.textContent = `“${visible(this.pieces[place])}” looks at `
      + most.map((i) => `“${visible(this.pieces[i])}” ${i === place ? "(itself)"
        : `(${place - i} before)`} ${percent(row[i] / 255)}`).join(", ");
  }
}
