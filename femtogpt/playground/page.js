// The page: its fields, a column a model, and the talk with the server.

const POLL = 2000; // milliseconds between looks at whether a model's file was saved
const TOKEN = new URLSearchParams(location.search).get("token") ?? "";
const element = (id) => document.getElementById(id);

/** An answer of the server's, which must be good. body: for a POST. */
async function ask(path, body, signal) {
  const headers = { "X-Femtogpt-Token": TOKEN };
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, signal,
      body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: was `femtogpt playground` ended?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `the server answers ${answer.status}: too much is asked at once`);
}

/** The objects of an answer's lines, as they come. */
async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (rest + value).split("\n");
    rest = whole.pop();
    yield whole.map(JSON.parse);
  }
}

/** A model's column. */
class Column {
  constructor(number, name, mostSeen) {
    const section = element("model").content.cloneNode(true).firstElementChild;
    element("models").append(section);
    const find = (part) => section.querySelector(`.${part}`);
    [this.number, this.mostSeen] = [number, mostSeen];
    this.speed = find("speed");
    find("name").textContent = name;
    find("text").setAttribute("aria-label", `Text of ${name}`);
    this.text = new TokenText(find("text"), find("told"));
    this.training = new Training(section, async (stamp) =>
      (await ask(`api/models/${number}?seen=${encodeURIComponent(stamp)}`)).json());
    this.attention = new Attention(find("attention"), async (ids) =>
      (await ask("api/attention", { model: number, ids })).json());
  }

  /** Streams a text; until it is whole, or signal aborts. */
  async generate(settings, signal) {
    this.text.begin(settings.prompt);
    this.tell("");
    let ids = [], began = 0, beginning = {}, made = 0;
    const tell = (seconds, more) => this.tell(`${made.toLocaleString("en")} tokens`
      + (made > 1 && seconds > 0 ? `, ${Math.round((made - 1) / seconds).toLocaleString("en")} tokens/s` : "")
      + `, seed ${beginning.seed}, step ${beginning.step}${more}`);
    try {
      const answer = await ask("api/generate", { ...settings, model: this.number }, signal);
      for await (const news of lines(answer)) {
        const parts = [];
        for (const line of news) {
          if (line.error) throw new Error(line.error);
          if (line.ids) [beginning, ids] = [line, line.ids];
          if (line.id !== undefined) {
            made++;
            ids.push(line.id);
            this.text.add(line);
          }
          parts.push(...line.parts ?? []);
          began ||= made && performance.now();
          if (line.end) tell(line.seconds, { stop: ", ended at the stop text",
            stopped: ", the server was ended" }[line.end] ?? "");
        }
        this.text.show(parts);
        if (!news.at(-1)?.end) tell((performance.now() - began) / 1000, "");
      }
    } catch (error) {
      if (error.name === "AbortError") tell(0, ", stopped");
      else this.tell(error.message, true);
    }
    if (!ids.length) return;
    this.attention.set(ids.slice(-Math.min(beginning.num_tokens, this.mostSeen)));
  }

  tell(message, isError = false) {
    this.speed.textContent = message;
    this.speed.classList.toggle("error", isError);
  }
}

/** What the fields hold, as /api/generate wants it. */
function settings() {
  const number = (id) => element(id).value === "" ? null : Number(element(id).value);
  return {
    prompt: element("prompt").value, count: number("count"), temperature: number("temperature"),
    top_k: number("top_k"), top_p: number("top_p"),
    seed: element("seed").value || String(crypto.getRandomValues(new Uint32Array(1))[0]),
    stop: element("stop").value.replaceAll("\\n", "\n") || null,
  };
}

async function start() {
  const button = element("button"), message = element("message");
  let columns = [], running = null;
  try {
    const { models, most_seen: mostSeen } = await (await ask("api/models")).json();
    columns = models.map((name, number) => new Column(number, name, mostSeen));
    document.querySelector("main").classList.toggle("several", columns.length > 1);
  } catch (error) {
    message.textContent = error.message;
    message.className = "error";
    button.textContent = "Generate";
    return;
  }

  async function toggle(event) {
    event?.preventDefault();
    if (running) {
      running.abort();
      return;
    }
    running = new AbortController();
    button.textContent = "Stop";
    button.formNoValidate = true; // it stops whatever stands in the fields by now
    message.textContent = "";
    const asked = settings(), { signal } = running;
    await Promise.all(columns.map((column) => column.generate(asked, signal)));
    message.textContent = signal.aborted ? "Stopped." : "Done.";
    running = null;
    button.textContent = "Generate";
    button.formNoValidate = false;
  }

  async function poll() {
    if (document.visibilityState === "visible") {
      await Promise.all(columns.map((column) => column.training.poll()));
    }
    setTimeout(poll, POLL);
  }

  function colour() {
    element("models").classList.toggle("coloured", element("colours").checked);
    element("legend").hidden = !element("colours").checked;
  }

  element("form").addEventListener("submit", toggle);
  element("colours").addEventListener("change", colour);
  element("temperature").addEventListener("input", ({ target }) => {
    element("temperature-value").textContent = target.value;
  });
  element("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    if (!running) element("form").requestSubmit();
  });
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape") running?.abort();
  });
  element("temperature").dispatchEvent(new Event("input"));
  colour();
  await poll();
  button.disabled = false;
  button.textContent = "Generate";
}

setTimeout(start);
