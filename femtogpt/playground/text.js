"use strict";
// One model's text: its tokens, coloured, and what is told of each when it is pointed at.

const LEAST = [0.9, 0.5, 0.2, 0.05, 0.01, 0]; // probabilities, of the classes p0 to p5

/** A new element, put into `parent`. */
function make(tag, parent, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  parent?.append(element);
  return element;
}

/** A part from 0 to 1 for people. */
function percent(part) {
  return part < 1e-4 ? "< 0.01 %" : `${(100 * part).toFixed(part < 0.1 ? 2 : 1)} %`;
}

/** A token's text where blanks must be seen. */
function visible(piece) {
  return piece.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍")
    .replaceAll(" ", "␣") || "(nothing)";
}

class TokenText {
  /** text, told: elements. */
  constructor(text, told) {
    [this.text, this.told] = [text, told];
    this.hint();
    text.addEventListener("pointerover", ({ target }) => this.tell(target));
    text.addEventListener("focusin", ({ target }) => this.tell(target));
    text.addEventListener("keydown", (event) => moveFocus(event, text, ".token"));
  }

  hint() {
    this.told.replaceChildren();
    make("p", this.told, "Point at the text, or tab to it and use the arrow keys, to see how "
      + "likely the model found each token, and what else it thought of.");
  }

  begin(prompt) {
    this.tokens = [];
    this.text.replaceChildren();
    make("span", this.text, prompt, "prompt");
    this.hint();
  }

  /** Takes a token, an object of the stream. */
  add(token) {
    this.tokens.push(token);
  }

  /** Shows parts of the text, each [string, the tokens' numbers]. */
  show(parts) {
    if (!parts.length) return;
    const { text } = this, atEnd = text.scrollTop + text.clientHeight > text.scrollHeight - 8;
    for (const [string, numbers] of parts) {
      const tokens = numbers.map((number) => this.tokens[number]);
      const least = Math.min(...tokens.map(({ probability }) => probability));
      const span = make("span", text, string, `token p${LEAST.findIndex((p) => least >= p)}`);
      span.tokens = tokens;
      span.tabIndex = span.previousElementSibling?.tokens ? -1 : 0;
    }
    if (atEnd) text.scrollTop = text.scrollHeight;
  }

  /** Tells of a span's tokens; of several, which make one character, of the first with others. */
  tell({ tokens }) {
    if (!tokens) return;
    this.told.classList.add("used"); // from here on it keeps its height
    this.told.replaceChildren();
    for (const { id, piece, probability, alternatives } of tokens) {
      const table = make("table", this.told);
      const rank = alternatives.findIndex(([other]) => other === piece);
      make("caption", table, `“${visible(piece)}”, token ${id}: ${percent(probability)}`);
      const rows = tokens.length > 1 ? alternatives.slice(0, 3) : [...alternatives];
      if (rank < 0 || rank >= rows.length) rows.push([piece, probability]);
      for (const [other, part] of rows) {
        const row = make("tr", table, "", other === piece ? "drawn" : "");
        make("td", row, visible(other));
        make("td", row, percent(part));
        make("i", make("td", row)).style.width = `${100 * part}%`;
      }
    }
  }
}

/** Arrow keys, Home and End go from one of `selector` in `parent` to another. */
function moveFocus(event, parent, selector) {
  const here = event.target, all = [...parent.querySelectorAll(selector)];
  const place = all.indexOf(here), to = {
    ArrowRight: all[place + 1], ArrowLeft: all[place - 1], Home: all[0], End: all.at(-1),
  }[event.key];
  if (place < 0 || !to) return;
  event.preventDefault();
  [here.tabIndex, to.tabIndex] = [-1, 0];
  to.focus();
}
