// What a model's file tells of its training: the curve, drawn anew when the file is saved.

const WIDTH = 420, HEIGHT = 220, LEFT = 38, RIGHT = 12, TOP = 10, BOTTOM = 30;

/** An SVG element, put into `parent`. */
function draw(tag, parent, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  parent?.append(element);
  return element;
}

/** Round numbers from low or just below to high or just above, about four of them. */
function ticks(low, high) {
  const rough = (high - low || Math.abs(high) || 1) / 4, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * size).find((s) => s >= rough);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: Math.max(last - first, 1) + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)));
}

/** lines: class -> [[x, y], ...], of which one has points. Returns an <svg>. */
function chart(lines) {
  const points = Object.values(lines).flat(), ys = points.map(([, y]) => y);
  const right = Math.max(1, ...points.map(([x]) => x)); // of step 0 there is no loss
  const yTicks = ticks(Math.min(...ys), Math.max(...ys)), [low, high] = [yTicks[0], yTicks.at(-1)];
  const atX = (x) => LEFT + x / right * (WIDTH - LEFT - RIGHT);
  const atY = (y) => TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM);
  const names = { loss: "training", validation: "held back" };
  const last = Object.entries(lines).filter(([, line]) => line.length)
    .map(([name, line]) => `${names[name]} ${line.at(-1)[1].toFixed(3)}`).join(", ");
  const svg = draw("svg", null, { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `Loss by step, to step ${Math.round(right)}: ${last}` });
  for (const y of yTicks) {
    draw("path", svg, { d: `M${LEFT} ${atY(y)}H${WIDTH - RIGHT}`, class: "grid" });
    draw("text", svg, { x: LEFT - 5, y: atY(y) + 4, "text-anchor": "end" }, String(y));
  }
  for (const x of ticks(0, right).filter((tick) => tick <= right)) {
    draw("text", svg, { x: atX(x), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, String(x));
  }
  draw("text", svg, { x: (LEFT + WIDTH) / 2, y: HEIGHT - 3, "text-anchor": "middle" },
    "step; loss in nats a token");
  Object.entries(lines).filter(([, line]) => line.length).forEach(([name, line], i) => {
    const d = line.map(([x, y]) => `${atX(x).toFixed(1)} ${atY(y).toFixed(1)}`).join("L");
    draw("path", svg, { d: `M${d}${line.length === 1 ? "h1" : ""}`, class: name });
    draw("path", svg, { d: `M${WIDTH - 96} ${TOP + 8 + 15 * i}h14`, class: name });
    draw("text", svg, { x: WIDTH - 78, y: TOP + 12 + 15 * i }, names[name]);
  });
  return svg;
}

/** Seconds for people. */
function ago(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h ago`
    : `${Math.round(seconds / 86400)} days ago`;
}

class Training {
  /** section: a model's. ask: (stamp it has) -> what /api/models/NUMBER answers. */
  constructor(section, ask) {
    [this.live, this.about, this.curve, this.sample, this.details] =
      ["live", "about", "curve", "sample", "training"].map((c) => section.querySelector(`.${c}`));
    this.ask = ask;
  }

  async poll() {
    try {
      const found = await this.ask(this.status?.stamp ?? "");
      this.tell({ ...this.status, ...found }, found.step !== undefined);
    } catch (error) {
      this.live.textContent = error.message;
      this.live.className = "live error";
      this.status = undefined;
    }
  }

  tell(status, fresh) {
    const { step, last_step: last, age, recovered } = status, first = !this.told;
    this.status = status;
    this.live.textContent = (recovered ? `${recovered}. ` : "") + `Step ${step.toLocaleString("en")}`
      + (last ? ` of ${last.toLocaleString("en")}` : "")
      + (age === null ? "" : `, saved ${ago(age)}`);
    this.live.className = recovered ? "live error" : fresh && !first ? "live fresh" : "live";
    if (!fresh) return;
    this.told = true;
    this.about.textContent = status.about;
    this.curve.replaceChildren();
    if (status.loss.length || status.validation.length) {
      this.curve.append(chart({ loss: status.loss, validation: status.validation }));
    } else make("p", this.curve, "No step was trained yet.");
    this.sample.textContent = status.sample ?? "(this vocabulary cannot spell a newline to begin with)";
    if (first && last && step < last) this.details.open = true; // it may well be training now
  }
}
