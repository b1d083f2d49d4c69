// Of many values: percentiles as NumPy has them, how often each occurs, mean and deviation

// Of a sorted sequence with the value at(k) at place k: linear interpolation, as NumPy does it
export function percentile(count, at, share) {
  const place = share / 100 * (count - 1), below = Math.floor(place), part = place - below;
  const low = at(below), high = at(Math.min(below + 1, count - 1));
  return part < 0.5 ? low + (high - low) * part : high - (high - low) * (1 - part);
}

// Of a mask or of other numbers, or of `count` of them
export function sum(values, from = 0, count = values.length, step = 1) {
  let result = 0;
  for (let n = 0; n < count; n++) result += values[from + n * step];
  return result;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return percentile(sorted.length, place => sorted[place], 50);
}

// How often each of 256 values occurs, in masks if there are
export function countValues(planes, masks = null) {
  const counts = new Float64Array(256);
  planes.forEach((plane, n) => { for (let i = 0; i < plane.length; i++) if (!masks || masks[n][i]) counts[plane[i]]++; });
  return counts;
}

// The same of 8-bit values given by how often each occurs
export function percentileOfCounts(counts, share) {
  const sums = new Float64Array(256);
  counts.reduce((sum, count, value) => (sums[value] = sum + count), 0);
  return percentile(sums[255], place => sums.findIndex(sum => sum > place), share);
}

// Mean and standard deviation of the same, of what `of` makes of each value
export function measure(counts, of = value => value) {
  let count = 0, sum = 0, squares = 0;
  counts.forEach((times, value) => { count += times; sum += times * of(value); });
  counts.forEach((times, value) => { squares += times * (of(value) - sum / count) ** 2; });
  return {mean: sum / count, deviation: Math.sqrt(squares / count)};
}

export function roundHalfEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
