// What the pages of judged pairs share. A page says how many cards it draws at a time (STEP), which pairs are shown
// (shown), and how one is drawn (card).
const LETTERS = {A: "original better", B: "optimized better", C: "tie", invalid: "no verdict", refused: "content filter"};
const NO_TEXT = {refused: "refused by a content filter", too_long: "the prompt does not fit into the model"};
const NOT_JUDGED = {equal_answers: "the answers are equal: a tie without a call",
  no_answer: "an answer is missing: nothing to judge"};
const data = JSON.parse(document.getElementById("data").textContent);
const lower = data.texts.map(text => text.toLowerCase());
const list = document.getElementById("pairs"), more = document.getElementById("more");

// The only way from the data into the page: strings become text nodes, nothing is ever parsed as HTML.
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function text(index, instead = "nothing was written") {
  const written = data.texts[index];
  return written.trim() ? make("p", {className: "text", dir: "auto"}, written) : make("p", {className: "none"}, `(${instead})`);
}

function letter(value, words = "") {
  const chip = make("span", {className: "letter"}, words ? `${value}: ${words}` : value);
  chip.dataset.letter = value;
  return chip;
}

function flip(judgment) {
  const letters = [judgment.original_first, judgment.optimized_first];
  if (!letters.every(each => ["A", "B", "C"].includes(each))) return "unreadable";
  return letters[0] === letters[1] ? "no" : "yes";
}

function textsOf(pair) {
  const sides = [pair.original, pair.optimized].flatMap(side => [side.prompt, side.text]);
  return [...sides, ...pair.judgments.flatMap(each => each.replies)];
}

// Both prompts from one word diff: the left one marks what is gone, the right one what is new.
function prompts(pair) {
  const before = make("p", {className: "text", dir: "auto"}), after = make("p", {className: "text", dir: "auto"});
  for (const [kind, old, changed] of data.diffs[pair.diff]) {
    if (old) before.append(kind === "=" ? old : make("del", {}, old));
    if (changed) after.append(kind === "=" ? changed : make("ins", {}, changed));
  }
  const same = pair.original.prompt === pair.optimized.prompt ? " (unchanged)" : "";
  return [make("section", {}, make("h3", {}, "Original prompt"), before),
    make("section", {}, make("h3", {}, `Optimized prompt${same}`), after)];
}

function answer(title, side) {
  return make("section", {}, make("h3", {}, title), text(side.text, NO_TEXT[side.outcome] ?? "no text came back"));
}

function judgment(each) {
  const line = make("p", {className: "verdict"}, make("span", {}, "Judge ", make("strong", {}, each.judge), ": "),
    letter(each.verdict, LETTERS[each.verdict]));
  if (flip(each) === "yes") line.append(make("span", {className: "mark"}, "flip: the orders disagree"));
  if (each.how in NOT_JUDGED) {
    line.append(make("span", {className: "faint"}, NOT_JUDGED[each.how]));
    return make("div", {className: "judge"}, line);
  }
  const order = (title, value, reply) => value
    ? make("section", {}, make("h3", {}, title, " ", letter(value, LETTERS[value])), text(reply))
    : make("section", {}, make("h3", {}, title), make("p", {className: "none"}, "(not asked in this order)"));
  return make("div", {className: "judge"}, line, make("div", {className: "two"},
    order("Original shown first:", each.original_first, each.replies[0]),
    order("Optimized shown first:", each.optimized_first, each.replies[1])));
}

// The first of those shown that are not on the page yet.
function drawMore() {
  const start = list.children.length;
  list.append(...shown.slice(start, start + STEP).map(card));
  const left = shown.length - list.children.length;
  more.hidden = !left;
  more.textContent = `Show ${Math.min(STEP, left)} more (${left.toLocaleString("en")} left)`;
}

more.addEventListener("click", () => {
  const first = list.children.length;
  drawMore();
  list.children[first].focus();
});
