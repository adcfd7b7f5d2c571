"use strict";
// What a page tells where one points, or moves by keys. It is whole without.

const HINT = "Point at a chart, a map or a coloured text, or tab to it and use the arrow keys: it "
  + "tells its values.";
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function paragraph(kind, text, after) {
  const line = document.createElement("p");
  line.className = kind;
  line.textContent = text;
  after.after(line);
  return line;
}

/** A line under an element, or under the table it is in, that tells what is pointed at. */
function readout(element) {
  const under = element.closest("td") ? element.closest(".scroll") : element;
  if (under.nextElementSibling?.className === "readout") return under.nextElementSibling;
  const line = paragraph("readout", "", under);
  line.setAttribute("role", "status");
  return line;
}

function drawn(name, attributes, into) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  into.append(element);
  return element;
}

/** Where in an svg, in its own units, an event happened. */
function placeIn(svg, event) {
  const box = svg.getBoundingClientRect(), { width, height } = svg.viewBox.baseVal;
  return [(event.clientX - box.left) / box.width * width,
    (event.clientY - box.top) / box.height * height];
}

/** A line chart: the nearest step, and what each line is there. */
function chart(svg) {
  const [x0, x1, low, high] = svg.dataset.x.split(" ").map(Number);
  const [y0, y1, least, most, log] = svg.dataset.y.split(" ");
  const valueOf = (y) => {
    const value = Number(least) + (y - y0) / (y1 - y0) * (most - least);
    return log ? 10 ** value : value;
  };
  const lines = [...svg.querySelectorAll(".line:not([stroke-opacity])")].map((path) => ({
    name: path.dataset.name + (path.hasAttribute("stroke-dasharray") ? ", held back" : ""),
    points: path.getAttribute("d").slice(1).split("L").map((point) => point.split(" ").map(Number)),
  }));
  if (!lines.length) return;
  const steps = [...new Set(lines.flatMap(({ points }) => points.map(([x]) => x)))]
    .sort((a, b) => a - b);
  const cursor = drawn("path", { class: "cursor" }, svg), told = readout(svg);
  let at = 0;
  const nearest = (numbers, wanted) => numbers.reduce((best, x, i) =>
    Math.abs(x - wanted) < Math.abs(numbers[best] - wanted) ? i : best, 0);
  function show(index) {
    at = Math.max(0, Math.min(steps.length - 1, index));
    const x = steps[at];
    cursor.setAttribute("d", `M${x} ${y1}V${y0}`);
    const step = Math.round(low + (x - x0) / (x1 - x0) * (high - low));
    told.textContent = `step ${step.toLocaleString("en")}: ` + lines.map(({ name, points }) => {
      if (x < points[0][0] - 1 || x > points[points.length - 1][0] + 1) return null;
      const [, y] = points[nearest(points.map((point) => point[0]), x)];
      return `${name} ${Number(valueOf(y).toPrecision(3))}`;
    }).filter(Boolean).join(", ");
  }
  svg.tabIndex = 0;
  svg.addEventListener("pointermove", (event) => show(nearest(steps, placeIn(svg, event)[0])));
  svg.addEventListener("pointerdown", (event) => show(nearest(steps, placeIn(svg, event)[0])));
  svg.addEventListener("focus", () => show(at));
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -1e9, End: 1e9 };
    if (!(event.key in by)) return;
    event.preventDefault();
    show(at + by[event.key]);
  });
}

/** Things in a row (a map's tokens, a text's): one of them is told, by its title. */
function rove(group) {
  const items = [...group.children], told = readout(group);
  if (!items.length) return;
  const titles = items.map((item) => {
    const title = item.querySelector("title"), says = title?.textContent
      ?? `“${item.textContent}”: ${item.title}`;
    title?.remove(); // the line under it tells; two would be one too many
    item.removeAttribute("title");
    return says;
  });
  let at = 0;
  function show(index) {
    items[at].classList.remove("now");
    at = Math.max(0, Math.min(items.length - 1, index));
    items[at].classList.add("now");
    told.textContent = titles[at];
  }
  group.tabIndex = 0;
  group.addEventListener("pointerover", ({ target }) => {
    const index = items.findIndex((item) => item.contains(target));
    if (index >= 0) show(index);
  });
  group.addEventListener("focus", () => show(at));
  group.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10, Home: -1e9, End: 1e9 };
    if (!(event.key in by)) return;
    event.preventDefault();
    show(at + by[event.key]);
  });
}

/** Maps of attention: a cell's two tokens and share; the sentence shows its whole row. */
function attention(block) {
  const names = JSON.parse(block.dataset.tokens), words = [...block.querySelectorAll(".sentence span")];
  const told = readout(block);
  for (const svg of block.querySelectorAll("svg")) {
    const { values } = svg.dataset, n = names.length;
    const share = (i, j) => Number(values.substr(i * (i + 1) + 2 * j, 2));
    let [i, j] = [n - 1, n - 1], cell = null;
    const show = (row, column) => {
      i = Math.max(0, Math.min(n - 1, row));
      j = Math.max(0, Math.min(i, column));
      block.querySelectorAll(".cell").forEach((other) => other !== cell && other.remove());
      if (!cell?.isConnected) cell = drawn("rect", { class: "cell", width: 1, height: 1 }, svg);
      cell.setAttribute("x", j);
      cell.setAttribute("y", i);
      words.forEach((word, k) => {
        word.classList.toggle("looks", k === i);
        word.style.background = k <= i
          ? `color-mix(in srgb, var(--c0) ${Math.min(70, share(i, k))}%, transparent)` : "";
      });
      told.textContent = `${svg.getAttribute("aria-label")}: “${names[i]}” (${i + 1}) looks at `
        + `“${names[j]}” (${j + 1}) with ${share(i, j)} % of its attention`;
    };
    const point = (event) => {
      const [x, y] = placeIn(svg, event).map(Math.floor);
      if (x <= y) show(y, x);
    };
    svg.tabIndex = 0;
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("focus", () => show(i, j));
    svg.addEventListener("keydown", (event) => {
      const by = KEYS[event.key];
      if (!by) return;
      event.preventDefault();
      show(i + by[1], j + by[0]);
    });
  }
}

paragraph("note", HINT, document.querySelector("nav"));
document.querySelectorAll(".chart").forEach(chart);
document.querySelectorAll("[data-rove]").forEach(rove);
document.querySelectorAll(".attention").forEach(attention);
