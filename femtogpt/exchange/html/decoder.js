"use strict";
// The forward of femtogpt/decoder.py: token by token, keys and values of the past kept.
// Letters: T tokens of context, C the width, L layers, NH heads of width hs, V tokens.

/** The numbers in a text of base64, float16 or float32, little-endian: count of them. */
function unpack(base64, dtype, count) {
  const bytes = new Uint8Array(count * (dtype === "float16" ? 2 : 4)), step = 1 << 20;
  for (let at = 0, i = 0; i < base64.length; i += step) {
    const part = atob(base64.slice(i, i + step));
    for (let k = 0; k < part.length; k++) bytes[at++] = part.charCodeAt(k);
  }
  if (dtype === "float32") return new Float32Array(bytes.buffer);
  const table = Float32Array.from({ length: 65536 }, (_, half) => {
    const exponent = half >> 10 & 31, fraction = half & 1023;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24;
    return half & 32768 ? -size : size;
  });
  return Float32Array.from(new Uint16Array(bytes.buffer), (half) => table[half]);
}

/** out = x weight + bias. out: (O,), x: (I,), weight: (I, O), bias: (O,) or null. */
function product(out, x, weight, bias) {
  const I = x.length, O = out.length;
  if (bias) out.set(bias);
  else out.fill(0);
  let i = 0;
  for (; i + 4 <= I; i += 4) {
    const a = x[i], b = x[i + 1], c = x[i + 2], d = x[i + 3];
    const A = i * O, B = A + O, C = B + O, D = C + O;
    for (let o = 0; o < O; o++) {
      out[o] += a * weight[A + o] + b * weight[B + o] + (c * weight[C + o] + d * weight[D + o]);
    }
  }
  for (; i < I; i++) {
    for (let o = 0; o < O; o++) out[o] += x[i] * weight[i * O + o];
  }
}

/** out = gain (x - mean) / sqrt(variance + eps) + bias; all (C,). */
function norm(out, x, gain, bias) {
  const C = x.length;
  let mean = 0, squares = 0;
  for (let c = 0; c < C; c++) mean += x[c];
  mean /= C;
  for (let c = 0; c < C; c++) squares += (x[c] - mean) ** 2;
  const scale = 1 / Math.sqrt(squares / C + 1e-5);
  for (let c = 0; c < C; c++) out[c] = (x[c] - mean) * scale * gain[c] + bias[c];
}

/** GELU in its tanh form, in place. */
function gelu(x) {
  const linear = 2 * Math.sqrt(2 / Math.PI), cubic = linear * 0.044715;
  for (let i = 0; i < x.length; i++) {
    x[i] /= 1 + Math.exp(-x[i] * (linear + cubic * x[i] * x[i]));
  }
}

/** out = x + y; all (C,). */
function add(out, x, y) {
  for (let c = 0; c < out.length; c++) out[c] = x[c] + y[c];
}

class Decoder {
  /** config: GPTConfig's fields. tensors: field of Tensors -> [its first number, its shape].
   * weights: all numbers. */
  constructor(config, tensors, weights) {
    const { num_tokens: T, embedding_degree: C, num_layers: L, num_heads: NH } = config;
    const part = (name, l) => { // layer l's of a tensor, or a whole one
      const [first, shape] = tensors[name];
      const size = shape.slice(l === undefined ? 0 : 1).reduce((a, b) => a * b, 1);
      return weights.subarray(first + (l ?? 0) * size, first + ((l ?? 0) + 1) * size);
    };
    const LAYER = ["attention_norm_gain", "attention_norm_bias", "query_key_value_weight",
      "projection_weight", "projection_bias", "mlp_norm_gain", "mlp_norm_bias", "up_weight",
      "up_bias", "down_weight", "down_bias"];
    const WHOLE = ["token_embedding", "final_norm_gain", "final_norm_bias", "head_weight",
      "head_bias"];
    this.layers = Array.from({ length: L }, (_, l) => Object.fromEntries(
      LAYER.map((name) => [name, part(name, l)])));
    this.p = Object.fromEntries(WHOLE.map((name) => [name, part(name)]));
    this.normalisedResidual = config.recipe === "femto";
    const encoding = config.positional_encoding;
    // Where only distances count the cache is a ring that slides; else a full window is begun
    // again with its last half.
    this.slides = encoding === "rope" || encoding === "none";
    this.positions = encoding === "learned" ? part("position_embedding")
      : encoding === "absolute" ? sinusoids(T, C) : null;
    Object.assign(this, { T, C, hs: C / NH, length: 0 });
    const half = encoding === "rope" ? this.hs / 2 : 0;
    this.frequencies = Float64Array.from({ length: half },
      (_, i) => config.rotary_base ** (-i / half));
    this.past = new Int32Array(T); // tokens, by slot
    this.keys = Array.from({ length: L }, () => new Float32Array(T * C));
    this.values = Array.from({ length: L }, () => new Float32Array(T * C));
    for (const name of ["x", "norm", "attention", "branch"]) this[name] = new Float32Array(C);
    this.qkv = new Float32Array(3 * C);
    this.up = new Float32Array(4 * C);
    this.scores = new Float64Array(T);
    this.logits = new Float32Array(config.vocab_size);
  }

  /** What is to be read, one after another, to go on with a token: it, and before it, where
   * there is no more room, the last half of the past. */
  next(token) {
    if (this.slides || this.length < this.T) return [token];
    this.length = 0;
    return [...this.past.slice(this.T - (this.T >> 1)), token];
  }

  /** Reads one token; .logits are then those of the next. */
  read(token) {
    const { C, T, p, x, norm: n, branch } = this;
    const position = this.length++, slot = position % T, filled = Math.min(position + 1, T);
    this.past[slot] = token;
    x.set(p.token_embedding.subarray(token * C, (token + 1) * C));
    if (this.positions) add(x, x, this.positions.subarray(position * C, (position + 1) * C));
    this.layers.forEach((layer, l) => {
      norm(n, x, layer.attention_norm_gain, layer.attention_norm_bias);
      product(this.qkv, n, layer.query_key_value_weight, null);
      this.turn(position);
      this.keys[l].set(this.qkv.subarray(C, 2 * C), slot * C);
      this.values[l].set(this.qkv.subarray(2 * C), slot * C);
      this.attend(this.keys[l], this.values[l], filled);
      product(branch, this.attention, layer.projection_weight, layer.projection_bias);
      add(x, this.normalisedResidual ? n : x, branch);
      norm(n, x, layer.mlp_norm_gain, layer.mlp_norm_bias);
      product(this.up, n, layer.up_weight, layer.up_bias);
      gelu(this.up);
      product(branch, this.up, layer.down_weight, layer.down_bias);
      add(x, this.normalisedResidual ? n : x, branch);
    });
    norm(n, x, p.final_norm_gain, p.final_norm_bias);
    product(this.logits, n, p.head_weight, p.head_bias);
  }

  /** Turns query and key by their position: number i of a head's first half with number i of its
   * second half. */
  turn(position) {
    const { qkv, hs, frequencies } = this, half = frequencies.length;
    for (let i = 0; i < half; i++) {
      const cos = Math.cos(position * frequencies[i]), sin = Math.sin(position * frequencies[i]);
      for (let first = i; first < 2 * this.C; first += hs) {
        const a = qkv[first], b = qkv[first + half];
        qkv[first] = a * cos - b * sin;
        qkv[first + half] = a * sin + b * cos;
      }
    }
  }

  /** Attention of the query in .qkv to the first `filled` slots, (T, C), in any order. */
  attend(keys, values, filled) {
    const { C, hs, scores, qkv, attention } = this, scale = 1 / Math.sqrt(hs);
    attention.fill(0);
    for (let h = 0; h < C; h += hs) {
      let most = -Infinity, total = 0;
      for (let t = 0; t < filled; t++) {
        let score = 0;
        for (let c = h; c < h + hs; c++) score += qkv[c] * keys[t * C + c];
        scores[t] = score * scale;
        most = Math.max(most, scores[t]);
      }
      for (let t = 0; t < filled; t++) total += scores[t] = Math.exp(scores[t] - most);
      for (let t = 0; t < filled; t++) {
        const weight = scores[t] / total;
        for (let c = h; c < h + hs; c++) attention[c] += weight * values[t * C + c];
      }
    }
  }
}

/** Fixed positions, (T, C): sin at even and cos at odd columns. */
function sinusoids(T, C) {
  return Float32Array.from({ length: T * C }, (_, i) => {
    const row = Math.floor(i / C), column = i % C;
    const angle = row / 10000 ** (2 * Math.floor(column / 2) / C);
    return column % 2 ? Math.cos(angle) : Math.sin(angle);
  });
}
