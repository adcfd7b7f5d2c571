"use strict";
// Drawing tokens as femtogpt/sampler.py does, from the same random numbers.

/** numpy's Generator(Philox(key=seed)).random(), one after another (Salmon et al. 2011). seed: a
 * BigInt below 2^64. */
function* philox(seed) {
  const word = (n) => BigInt.asUintN(64, n);
  const M0 = 0xd2e7470ee14c6c93n, M1 = 0xca5a826395121157n;
  for (let counter = 1n; ; counter++) {
    let a = counter, b = 0n, c = 0n, d = 0n, k0 = seed, k1 = 0n;
    for (let round = 0; round < 10; round++) {
      const p = M0 * a, q = M1 * c;
      [a, b, c, d] = [(q >> 64n) ^ b ^ k0, word(q), (p >> 64n) ^ d ^ k1, word(p)];
      [k0, k1] = [word(k0 + 0x9e3779b97f4a7c15n), word(k1 + 0xbb67ae8584caa73bn)];
    }
    for (const number of [a, b, c, d]) yield Number(number >> 11n) / 2 ** 53;
  }
}

/** A token out of softmax(logits / temperature), of the topK likeliest if that is not null;
 * temperature 0: the likeliest. uniform: random, in [0, 1). */
function draw(logits, uniform, temperature, topK) {
  let most = -Infinity;
  for (const logit of logits) {
    if (!Number.isFinite(logit)) {
      throw new Error("The model’s logits are not finite: its training diverged.");
    }
    most = Math.max(most, logit);
  }
  const sharpness = temperature > 0 ? Math.min(1 / temperature, 3e38) : Infinity;
  const weights = Float64Array.from(logits, (logit) => logit === most ? 1
    : Math.exp((logit - most) * sharpness));
  if (topK !== null && topK < weights.length) {
    const order = Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a]);
    for (const token of order.slice(topK)) weights[token] = 0;
  }
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let below = 0, token = -1;
  while (below <= uniform * total) below += weights[++token];
  return token;
}

/** softmax(logits)[token]. */
function probability(logits, token) {
  let total = 0;
  for (const logit of logits) total += Math.exp(logit - logits[token]);
  return 1 / total;
}

/** A prompt's ids, after that of a newline where there is one and room for it. Throws an Error
 * with the reason where the model cannot begin with it. */
function promptIds(tokenizer, T, prompt) {
  const tooLong = (count) => new Error(
    `The prompt is ${count} tokens, the model sees ${T} at once: shorten it.`);
  if (prompt.length > 2 * T * tokenizer.longest) throw tooLong(`more than ${T}`);
  const ids = tokenizer.encode(prompt);
  if (ids.length > T) throw tooLong(ids.length);
  if (ids.length < T && !prompt.startsWith("\n")) {
    let newline = [];
    try {
      newline = tokenizer.encode("\n");
    } catch (error) {
      if (!(error instanceof Unspellable)) throw error;
    }
    if (newline.length === 1) return [...newline, ...ids];
    if (!ids.length) {
      throw new Error("This vocabulary cannot spell a newline to begin with: give a prompt.");
    }
  }
  return ids;
}

/** Yields null after each token read, and {token, probability} for each drawn: its probability at
 * temperature 1, out of all tokens. ids: at least one; settings: count, temperature, topK, seed. */
function* generate(decoder, ids, { count, temperature, topK, seed }) {
  const uniforms = philox(seed);
  decoder.length = 0;
  let waiting = ids;
  for (let made = 0; made < count; made++) {
    for (const token of waiting) {
      decoder.read(token);
      yield null;
    }
    const token = draw(decoder.logits, uniforms.next().value, temperature, topK);
    yield { token, probability: probability(decoder.logits, token) };
    waiting = decoder.next(token);
  }
}
