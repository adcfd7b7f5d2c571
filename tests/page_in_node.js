// Runs an exported page's own script in Node.js, without the document.
// node page_in_node.js page.html < requests: a list of [name, arguments ...]; prints the answers.
const fs = require("node:fs");
const vm = require("node:vm");

const html = fs.readFileSync(process.argv[2], "utf8");
const [json, weights, script] = [...html.matchAll(/<script[^>]*>([^]*?)<\/script>/g)]
  .map((match) => match[1]);
vm.runInThisContext(script);
const { T, tokenizer, decoder } = vm.runInThisContext("load")(json, weights);
const { philox, promptIds, generate } = vm.runInThisContext("({ philox, promptIds, generate })");
const { dtype, count } = JSON.parse(json);

const answers = {
  // Of each text its ids, or what was thrown; and the pieces of these joined.
  encode: (texts) => texts.map((text) => {
    try {
      const ids = tokenizer.encode(text);
      return [ids, ids.map((id) => tokenizer.pieces[id]).join("")];
    } catch (error) {
      return [error.message, null];
    }
  }),
  chunks: (texts) => texts.map((text) => text.match(tokenizer.pattern) ?? []),
  pieces: () => tokenizer.pieces,
  weights: () => Array.from(vm.runInThisContext("unpack")(weights, dtype, count)),
  // The logits after each token.
  logits: (ids) => {
    decoder.length = 0;
    return ids.map((id) => {
      for (const token of decoder.next(id)) decoder.read(token);
      return Array.from(decoder.logits);
    });
  },
  // [ids, probabilities] of what continues a prompt; or what was thrown.
  generate: (prompt, { seed, ...settings }) => {
    try {
      const work = generate(decoder, promptIds(tokenizer, T, prompt),
        { seed: BigInt(seed), ...settings });
      const drawn = [...work].filter(Boolean);
      return [drawn.map((step) => step.token), drawn.map((step) => step.probability)];
    } catch (error) {
      return [error.message, null];
    }
  },
  uniforms: (seed, count) => {
    const numbers = philox(BigInt(seed));
    return Array.from({ length: count }, () => numbers.next().value);
  },
};
const requests = JSON.parse(fs.readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(requests.map(([name, ...rest]) => answers[name](...rest))));
