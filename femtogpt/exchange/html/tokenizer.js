"use strict";
// Text to token ids, as femtogpt/tokenizer/ has it.

const utf8 = new TextEncoder();

/** The UTF-8 bytes of a text as a string of U+0000 to U+00FF, which a Map can find. */
function bytesOf(text) {
  let bytes = "";
  for (const byte of utf8.encode(text)) bytes += String.fromCharCode(byte);
  return bytes;
}

/** A place of a text that the vocabulary cannot spell. */
class Unspellable extends Error {
  constructor(character) {
    const point = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    super(`This model cannot spell “${character}” (U+${point}): take it out of the prompt.`);
  }
}

// Where merges may not cross: the patterns of split.py, the classes spelled out as ranges.
const PATTERNS = {
  gpt2: (L, N, S) => `'(?:[stmd]|re|ve|ll)| ?[${L}]+| ?[${N}]+| ?[^${S}${L}${N}]+`
    + `|[${S}]+(?![^${S}])|[${S}]+`,
  gpt4: (L, N, S) => "'(?:[sStTmMdD\\u017f]|[rRvV][eE]|[lL][lL])" // in any case, ſ is an s
    + `|[^\\r\\n${L}${N}]?[${L}]+|[${N}]{1,3}| ?[^${S}${L}${N}]+[\\r\\n]*`
    + `|[${S}]*[\\r\\n]+|[${S}]+(?![^${S}])|[${S}]+`,
};

class Tokenizer {
  /** data: what tokens.py writes. */
  constructor(data) {
    this.how = data.how;
    this.unknown = data.unknown;
    this.pieces = data.pieces;
    this.merges = data.merges;
    this.lower = data.lower && new Map(Object.entries(data.lower));
    this.pattern = data.split && new RegExp(PATTERNS[data.split](...data.classes), "gu");
    this.longest = data.pieces.reduce((most, piece) => Math.max(most, piece.length), 1);
    const special = new Set(data.special);
    this.ids = new Map();
    data.pieces.forEach((piece, id) => special.has(id) || this.ids.set(piece, id));
    this.ranks = new Map();
    for (let i = 0; i < data.merges.length; i += 3) {
      this.ranks.set(this.pair(data.merges[i], data.merges[i + 1]), i / 3);
    }
  }

  /** The ids of a text. Throws Unspellable. */
  encode(text) {
    text = text.replace(/[\ud800-\udfff]/gu, "\ufffd"); // halves of characters
    if (this.lower) text = text.replace(/./gsu, (c) => this.lower.get(c) ?? c);
    if (this.how === "characters") {
      return Array.from(text, (c) => this.ids.get(bytesOf(c)) ?? this.unknownAt(c, 0));
    }
    const bytes = bytesOf(text);
    if (this.how === "greedy") return this.greedy(bytes, text);
    for (let i = 0; i < bytes.length; i++) {
      if (!this.ids.has(bytes[i])) this.unknownAt(text, i);
    }
    if (this.how === "fewest") return this.fewest(bytes);
    const chunks = this.pattern ? text.match(this.pattern) ?? [] : [text];
    return chunks.flatMap((chunk) => this.merge(bytesOf(chunk)));
  }

  /** The longest piece at each place. */
  greedy(bytes, text) {
    const ids = [];
    for (let i = 0; i < bytes.length;) {
      let length = Math.min(this.longest, bytes.length - i);
      while (length > 0 && !this.ids.has(bytes.slice(i, i + length))) length--;
      ids.push(length ? this.ids.get(bytes.slice(i, i + length)) : this.unknownAt(text, i));
      i += length || 1;
    }
    return ids;
  }

  /** The fewest pieces; of several ways the one whose last piece is longest, and so on back. */
  fewest(bytes) {
    const cost = [0], last = [-1], ids = [];
    for (let end = 1; end <= bytes.length; end++) {
      cost[end] = Infinity;
      for (let length = Math.min(this.longest, end); length > 0; length--) {
        if (cost[end - length] + 1 >= cost[end]) continue;
        const id = this.ids.get(bytes.slice(end - length, end));
        if (id !== undefined) [cost[end], last[end]] = [cost[end - length] + 1, id];
      }
    }
    for (let end = bytes.length; end > 0; end -= this.pieces[last[end]].length) ids.push(last[end]);
    return ids.reverse();
  }

  /** One chunk: of the merges that can be made the earliest learnt first, and of its places the
   * leftmost. */
  merge(bytes) {
    const ids = Array.from(bytes, (byte) => this.ids.get(byte));
    const rank = (i) => i + 1 < ids.length
      ? this.ranks.get(this.pair(ids[i], ids[i + 1])) ?? Infinity : Infinity;
    const ranks = ids.map((_, i) => rank(i));
    for (;;) {
      let first = 0;
      for (let i = 1; i < ranks.length; i++) if (ranks[i] < ranks[first]) first = i;
      if (!(ranks[first] < Infinity)) return ids;
      ids.splice(first, 2, this.merges[3 * ranks[first] + 2]);
      ranks.splice(first, 1);
      ranks[first] = rank(first);
      if (first > 0) ranks[first - 1] = rank(first - 1);
    }
  }

  pair(left, right) {
    return left * this.pieces.length + right;
  }

  /** The id of what no piece spells, or throws: text's character that has its byte `at`. */
  unknownAt(text, at) {
    if (this.unknown !== null) return this.unknown;
    for (const character of text) {
      at -= utf8.encode(character).length;
      if (at < 0) throw new Unspellable(character);
    }
  }
}
