"use strict";
// The page: reads its fields, generates in slices that leave the browser time for all else, shows.

const SLICE = 15; // milliseconds

/** The decoder and tokenizer of what writing.py writes: its JSON, and its weights as base64. */
function load(json, base64) {
  const { config, dtype, count, tensors, tokenizer } = JSON.parse(json);
  return {
    T: config.num_tokens,
    tokenizer: new Tokenizer(tokenizer),
    decoder: new Decoder(config, tensors, unpack(base64, dtype, count)),
  };
}

/** A part from 0 to 1 for people. */
function percent(part) {
  return part < 1e-4 ? "less than 0.01 %" : `${(100 * part).toFixed(part < 0.1 ? 2 : 1)} %`;
}

function start() {
  const element = (id) => document.getElementById(id);
  const [button, speed, text, readout] = ["button", "speed", "text", "readout"].map(element);
  const { T, tokenizer, decoder } = load(element("model").textContent,
    element("weights").textContent);
  element("weights").remove();
  const channel = new MessageChannel(); // timers would wait longer, and in hidden tabs a second
  const pause = () => new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
  let running = false;

  function say(message, isError = false) {
    element("message").textContent = message;
    element("message").classList.toggle("error", isError);
  }

  function settings() {
    const topK = element("top-k").value, seed = element("seed").value;
    return {
      count: Number(element("count").value),
      temperature: Number(element("temperature").value),
      topK: topK === "" ? null : Number(topK),
      seed: seed === "" ? BigInt(crypto.getRandomValues(new Uint32Array(1))[0]) : BigInt(seed),
    };
  }

  /** Text that one or several tokens, [{token, probability}], became whole with. */
  function append(to, string, tokens) {
    const span = document.createElement("span");
    span.className = "token";
    span.textContent = string;
    span.tokens = tokens;
    span.tabIndex = text.querySelector(".token") || to.querySelector(".token") ? -1 : 0;
    to.append(span);
  }

  async function run() {
    const { seed, ...others } = settings(), prompt = element("prompt").value;
    const work = generate(decoder, promptIds(tokenizer, T, prompt), { seed, ...others });
    const characters = new TextDecoder("utf-8", { ignoreBOM: true });
    let made = 0, began = 0, whole = [];
    const echo = document.createElement("span");
    echo.className = "prompt";
    echo.textContent = prompt;
    text.replaceChildren(echo);
    for (let done = false; running && !done;) {
      const until = performance.now() + SLICE, fresh = document.createDocumentFragment();
      do {
        const step = work.next();
        done = step.done;
        if (!step.value) continue;
        began ||= performance.now();
        made++;
        whole.push(step.value);
        const bytes = Uint8Array.from(tokenizer.pieces[step.value.token], (b) => b.charCodeAt(0));
        const string = characters.decode(bytes, { stream: true });
        if (string) [whole] = [[], append(fresh, string, whole)];
      } while (!done && performance.now() < until);
      const atEnd = text.scrollTop + text.clientHeight > text.scrollHeight - 8;
      text.append(fresh);
      if (atEnd) text.scrollTop = text.scrollHeight;
      // The first token came with the prompt.
      const seconds = (performance.now() - began) / 1000; // some browsers' clocks are coarse
      const rate = made > 1 && seconds > 0 ? (made - 1) / seconds : 0;
      speed.textContent = `${made.toLocaleString("en")} tokens`
        + (rate ? `, ${Math.round(rate).toLocaleString("en")} tokens/s` : "") + `, seed ${seed}`;
      await pause();
    }
    const rest = characters.decode(); // a character that was not finished
    if (rest) append(text, rest, whole);
    say(running ? "Done." : "Stopped.");
  }

  async function toggle(event) {
    event?.preventDefault();
    if (running) {
      running = false;
      return;
    }
    running = true;
    button.textContent = "Stop";
    button.formNoValidate = true; // it stops whatever stands in the fields by now
    speed.textContent = "";
    say("");
    try {
      await run();
    } catch (error) {
      say(error.message, true);
    }
    running = false;
    button.textContent = "Generate";
    button.formNoValidate = false;
  }

  function tell({ target }) {
    if (!target.tokens) return;
    const named = target.tokens.length === 1 ? `token ${target.tokens[0].token}`
      : `tokens ${target.tokens.map(({ token }) => token).join(", ")}`;
    readout.textContent = `${JSON.stringify(target.textContent)}, ${named}: probability `
      + target.tokens.map(({ probability }) => percent(probability)).join(", ");
  }

  function move(event) {
    const token = event.target, to = {
      ArrowRight: token.nextElementSibling, ArrowLeft: token.previousElementSibling,
      Home: text.querySelector(".token"), End: text.lastElementChild,
    }[event.key];
    if (!token.tokens || !to?.tokens) return;
    event.preventDefault();
    [token.tabIndex, to.tabIndex] = [-1, 0];
    to.focus();
  }

  element("form").addEventListener("submit", toggle);
  element("temperature").addEventListener("input", ({ target }) => {
    element("temperature-value").textContent = target.value;
  });
  element("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      element("form").requestSubmit();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running = false;
  });
  text.addEventListener("pointerover", tell);
  text.addEventListener("focusin", tell);
  text.addEventListener("keydown", move);
  button.disabled = false;
  button.textContent = "Generate";

  // page.html#prompt=KING&temperature=0 fills the fields in and begins.
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const name of ["prompt", "temperature", "top-k", "count", "seed"]) {
    if (wanted.has(name)) element(name).value = wanted.get(name);
  }
  element("temperature").dispatchEvent(new Event("input"));
  if (String(wanted)) element("form").requestSubmit();
}

if (typeof document !== "undefined") setTimeout(start);
