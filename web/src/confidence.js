// The Dice to expect of a mask without a reference, by the regression that weights may carry (evaluation/quality.py)
import {masksToNetwork} from "./geometry.js";
import {countComponents} from "./postprocess.js";
import {sum} from "./preprocess.js";

export const FEATURES = ["log_volume", "log_components", "largest_share", "neighbour_dice", "threshold_dice", "entropy"];

// config.confidence: {features: {name: {coefficient, low, high}}, surest: {name: the end, low or high, at which the network
// is surest: beyond it this end stands in}, intercept, half_width: of the interval, thresholds: [low, high], bad: the Dice
// below which a mask has to be checked, empty: the probability that an empty mask is right, if half of the patients have no
// tumour}, or null. Returns {dice, low, high, check}; the Dice is null for a mask unlike all that it was fitted to, and where
// there is a warning; low and high are null for an empty mask, too.
export function expectedDice(logits, masks, scan, config, doubtful) {
  const {confidence: quality} = config;
  if (!quality) return null;
  const unknown = {dice: null, low: null, high: null, check: true};
  if (doubtful) return unknown;
  const row = features(logits, masksToNetwork(masks, scan, config), quality, config.input.size);
  if (!row) return {...unknown, dice: masks.some(mask => sum(mask)) ? null : quality.empty ?? null};  // not lost on this grid
  let expected = quality.intercept;
  for (const [name, {coefficient, low, high}] of Object.entries(quality.features)) {
    const value = Math.min(high, Math.max(low, row[name]));
    if (value !== row[name] && value !== {low, high}[quality.surest[name]]) return unknown;
    expected += coefficient * value;
  }
  const [low, dice, high] = [-1, 0, 1].map(side => Math.max(0, Math.min(1, expected + side * quality.half_width)));
  return {dice, low, high, check: low < quality.bad};
}

// On the grid of the network
function features(logits, masks, {thresholds}, size) {
  const areas = masks.map(mask => sum(mask)), volume = sum(areas);
  if (!volume) return null;
  let both = 0, entropy = 0, lower = 0, upper = 0;
  for (let n = 1; n < masks.length; n++) for (let i = 0; i < masks[n].length; i++) both += masks[n][i] & masks[n - 1][i];
  const [low, high] = thresholds.map(threshold => Math.log(threshold / (1 - threshold)));
  for (const plane of logits) for (const value of plane) {
    const share = 1 / (1 + Math.exp(-value));
    if (share > 0 && share < 1) entropy -= share * Math.log2(share) + (1 - share) * Math.log2(1 - share);
    lower += value >= low ? 1 : 0;
    upper += value >= high ? 1 : 0;
  }
  const pairs = 2 * volume - areas[0] - areas.at(-1), sizes = countComponents(masks, size, size);
  return {
    log_volume: Math.log10(volume),
    log_components: Math.log10(sizes.length),
    largest_share: Math.max(...sizes) / volume,
    neighbour_dice: pairs ? 2 * both / pairs : 0,
    threshold_dice: lower ? 2 * upper / (lower + upper) : 0,  // one mask lies within the other
    entropy: entropy / volume,
  };
}
