// SHA-256 (FIPS 180-4). The browser's own takes all bytes at once, and is not there on pages served without https
const INITIAL = [], ROUND = [];  // the fractions of the square and cube roots of the first primes
for (let n = 2; ROUND.length < 64; n++) {
  let prime = true;
  for (let d = 2; d * d <= n && prime; d++) prime = n % d > 0;
  if (!prime) continue;
  if (INITIAL.length < 8) INITIAL.push((n ** (1 / 2) % 1) * 2 ** 32 | 0);
  ROUND.push((n ** (1 / 3) % 1) * 2 ** 32 | 0);
}
const turn = (word, bits) => word >>> bits | word << 32 - bits;

// Of parts, Uint8Arrays, one after the other: 64 digits
export function sha256(parts) {
  const state = Int32Array.from(INITIAL), words = new Int32Array(64), block = new Uint8Array(64), view = new DataView(block.buffer);
  let filled = 0, length = 0;
  const add = byte => {
    block[filled++] = byte;
    if (filled < 64) return;
    filled = 0;
    for (let n = 0; n < 16; n++) words[n] = view.getInt32(4 * n);
    for (let n = 16; n < 64; n++) {
      const a = words[n - 15], b = words[n - 2];
      words[n] = words[n - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >>> 3) + words[n - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >>> 10);
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let n = 0; n < 64; n++) {
      const one = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + (e & f ^ ~e & g) + ROUND[n] + words[n] | 0;
      const two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + (a & b ^ a & c ^ b & c) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, d + one | 0, c, b, a, one + two | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, n) => { state[n] += word; });
  };
  for (const part of parts) {
    length += part.length;
    for (let n = 0; n < part.length; n++) add(part[n]);
  }
  add(0x80);
  while (filled !== 56) add(0);
  for (const byte of new Uint8Array(new BigUint64Array([BigInt(8 * length)]).buffer).reverse()) add(byte);
  return Array.from(state, word => (word >>> 0).toString(16).padStart(8, "0")).join("");
}
