// The Dice to expect of a mask without a reference, by the rule in the weights' metadata (`confidence`). No weights have
// one yet: a rule is a function (logits, masks, settings) -> {dice, check: whether a person has to look closely}.
export const RULES = {};

export function expectedDice(logits, masks, settings) {
  return settings ? RULES[settings.rule](logits, masks, settings) : null;
}
