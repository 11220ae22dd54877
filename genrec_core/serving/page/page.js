// The demo page. It knows only the HTTP routes of this server. What comes from data is set as text, never as markup.
// Item ids are text here, also where the model's are numbers: JavaScript has no integers of 64 bits.

const ROOT = new URL("../", import.meta.url);
const MOST_ITEMS = 100;
const COUNTS = [5, 10, 20, 50, 100];
const SEARCH_WAIT = 150; // milliseconds after a key
const RULE_WAIT = 800;
const POLL = 1000; // milliseconds between two looks for a model that is being opened
const FOLLOW = 15_000; // milliseconds between two looks for another release
const HISTORY_MOST = 200;
const LIKENESS = { model: "what the model learned", text: "their texts", codes: "their codes" };

const element = (id) => document.getElementById(id);
const state = {
  model: null, // the answer of GET /model
  history: [], // item ids, oldest first
  withdrawn: [],
  ranking: "auto",
  count: 10,
  seen: "",
  rule: "",
  fallback: "popular",
};
const known = new Map(); // facts of items by id
let asking = null; // aborts the request for recommendations that is under way
let explained = null; // the explanations of the list that is shown: a promise, made when the first one is opened

// --- JSON whose integers may be longer than a number holds ---

function parseJson(text) {
  const token = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
  return JSON.parse(text.replace(token, (part) => (/^-?\d{16,}$/.test(part) ? `"${part}"` : part)));
}

function idList(ids) {
  if (state.model.item_ids === "text") return JSON.stringify(ids);
  return `[${ids.filter((id) => /^-?\d{1,19}$/.test(id)).join(",")}]`;
}

// A body of JSON: `lists` are item ids, `rest` anything else.
function bodyOf(rest, lists) {
  const parts = Object.entries(lists).map(([name, ids]) => `${JSON.stringify(name)}:${idList(ids)}`);
  const more = JSON.stringify(rest).slice(1, -1);
  return `{${[more, ...parts].filter(Boolean).join(",")}}`;
}

// --- asking the server ---

class Refusal extends Error {
  constructor(status, code, message, field) {
    super(message);
    Object.assign(this, { status, code, field });
  }
}

async function ask(path, { body, signal } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const token = sessionStorage.getItem("genrec-token");
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(new URL(path, ROOT), { method: body === undefined ? "GET" : "POST", headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "no_answer", "The server does not answer. Is it still running?");
  }
  const text = await answer.text();
  if (answer.ok) return parseJson(text);
  throw refusalOf(answer.status, text);
}

function refusalOf(status, text) {
  try {
    const { code, message, field } = JSON.parse(text).error;
    return new Refusal(status, code, message, field);
  } catch {
    const message = `The server answered with status ${status}. Something in front of it may be at fault.`;
    return new Refusal(status, "no_json", message);
  }
}

function needsToken(error) {
  return ["no_token", "wrong_token"].includes(error.code);
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

// --- making elements ---

// make("li", {class: "x"}, "text", child): attributes by name; null leaves one out.
function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function button(text, label, onclick, more = {}) {
  return make("button", { type: "button", "aria-label": label, onclick, ...more }, text);
}

function share(part, value) {
  part.style.setProperty("--share", String(Math.max(0, Math.min(1, value))));
  return part;
}

function titleOf(id) {
  return known.get(id)?.title ?? `item ${id}`;
}

// A coloured tile with a letter, in place of a picture: the colour stands for the category.
function tile(id) {
  const facts = known.get(id);
  const group = facts?.categories?.split(/ > |; /).slice(0, 3).join() ?? facts?.brand ?? "";
  let hue = 7;
  for (const letter of group) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  const letter = [...titleOf(id).replace(/^[^\p{L}\p{N}]+/u, "")][0] ?? "#";
  const made = make("span", { class: "tile", "aria-hidden": "true" }, letter.toUpperCase());
  made.style.setProperty("--hue", String(hue));
  return made;
}

// Brand, category and price of an item, whichever it has.
function factLine(id) {
  const facts = known.get(id) ?? {};
  const path = facts.categories?.split("; ")[0].split(" > ").slice(-2).join(" › ");
  const price = typeof facts.price === "number" ? facts.price.toFixed(2) : null;
  const parts = [
    facts.brand && make("span", { class: "item-brand" }, facts.brand),
    path && make("span", { class: "item-category", title: facts.categories }, path),
    price && make("span", { class: "item-price" }, make("span", { class: "visually-hidden" }, "price "), price),
  ].filter(Boolean);
  return parts.length ? make("p", { class: "item-facts" }, ...parts) : null;
}

function remember(items) {
  for (const item of items ?? []) known.set(String(item.item_id), item);
}

// --- the view in the address, so that it can be shared ---

function saveView() {
  const view = new URLSearchParams();
  for (const id of state.history) view.append("h", id);
  for (const id of state.withdrawn) view.append("w", id);
  if (state.ranking !== "auto") view.set("ranking", state.ranking);
  if (state.count !== 10) view.set("n", state.count);
  if (state.seen) view.set("exclude_seen", state.seen);
  if (state.rule) view.set("rule", state.rule);
  if (state.fallback !== "popular") view.set("fallback", state.fallback);
  history.replaceState(null, "", `#${view}`);
}

async function openView() {
  const view = new URLSearchParams(location.hash.slice(1));
  const ids = (name) => [...new Set(view.getAll(name))].filter(isId);
  state.history = view.getAll("h").filter(isId).slice(-HISTORY_MOST);
  state.withdrawn = ids("w").slice(0, HISTORY_MOST);
  const rankings = ["auto", ...state.model.rankings];
  state.ranking = rankings.includes(view.get("ranking")) ? view.get("ranking") : "auto";
  state.count = Math.min(MOST_ITEMS, Math.max(1, Math.trunc(Number(view.get("n"))) || 10));
  state.seen = ["true", "false"].includes(view.get("exclude_seen")) ? view.get("exclude_seen") : "";
  state.rule = state.model.takes_rules ? (view.get("rule") ?? "") : "";
  state.fallback = state.model.fallbacks.includes(view.get("fallback")) ? view.get("fallback") : "popular";
  await describe([...state.history, ...state.withdrawn]);
  showControls();
  update();
}

function isId(id) {
  return state.model.item_ids === "text" ? id.length > 0 && id.length <= 256 : /^-?\d{1,19}$/.test(id);
}

async function describe(ids) {
  const unknown = [...new Set(ids)].filter((id) => !known.has(id));
  for (let first = 0; first < unknown.length; first += 50) {
    const query = new URLSearchParams(unknown.slice(first, first + 50).map((id) => ["item_id", id]));
    try {
      remember((await ask(`items?${query}`)).items);
    } catch (error) {
      if (needsToken(error)) throw error; // otherwise titles made of ids stand in
    }
  }
}

// --- history ---

function update({ focus } = {}) {
  saveView();
  showHistory();
  showWithdrawn();
  if (focus) focus();
  recommend();
}

function addToHistory(id) {
  state.history = [...state.history, id].slice(-HISTORY_MOST);
  update();
}

function showHistory() {
  const last = state.history.length - 1;
  element("history").replaceChildren(
    ...state.history.map((id, place) =>
      make(
        "li",
        { class: "chip" },
        tile(id),
        make("div", { class: "chip-text" }, make("span", { class: "item-title" }, titleOf(id)), factLine(id)),
        make(
          "div",
          { class: "chip-buttons" },
          button("↑", `Move ${titleOf(id)} up`, () => move(place, -1), { disabled: place === 0, class: "icon" }),
          button("↓", `Move ${titleOf(id)} down`, () => move(place, 1), { disabled: place === last, class: "icon" }),
          button("×", `Remove ${titleOf(id)} from the history`, () => removeAt(place), { class: "icon remove" }),
        ),
      ),
    ),
  );
  element("history-empty").hidden = last >= 0;
  element("clear").disabled = last < 0;
  element("fallback-box").hidden = last >= 0;
}

function move(place, step) {
  const [id] = state.history.splice(place, 1);
  state.history.splice(place + step, 0, id);
  update({ focus: () => focusIn("history", place + step, step < 0 ? 0 : 1) });
}

function removeAt(place) {
  state.history.splice(place, 1);
  update({ focus: () => focusIn("history", Math.min(place, state.history.length - 1), 2) });
}

// Focus a button of a row, or another of the row where that one is off, or the search where no row is left.
function focusIn(list, row, which) {
  const buttons = element(list).children[row]?.querySelectorAll("button") ?? [];
  const wanted = [buttons[which], ...buttons].find((each) => each && !each.disabled);
  (wanted ?? element("search")).focus();
}

async function drawExample() {
  element("history-error").textContent = "";
  try {
    const { items } = await ask("history/example");
    remember(items);
    state.history = items.map((item) => String(item.item_id)).slice(-HISTORY_MOST);
    update();
  } catch (error) {
    if (needsToken(error)) return askForToken(error);
    element("history-error").textContent = sentence(error.message);
  }
}

// --- search ---

let suggestions = [];
let active = -1;
let searching = null;

async function search() {
  searching?.abort();
  searching = new AbortController();
  const query = element("search").value.trim();
  if (!query) return closeSuggestions();
  try {
    const { items } = await ask(`items?${new URLSearchParams({ query, topk: 8 })}`, { signal: searching.signal });
    remember(items);
    showSuggestions(items.map((item) => String(item.item_id)));
  } catch (error) {
    if (error.name === "AbortError") return;
    if (needsToken(error)) return askForToken(error);
    closeSuggestions();
    element("search-status").textContent = sentence(error.message);
  }
}

function showSuggestions(ids) {
  [suggestions, active] = [ids, -1];
  const rows = ids.map((id, place) =>
    make(
      "li",
      {
        role: "option",
        id: `suggestion-${place}`,
        "aria-selected": "false",
        onmousedown: (event) => event.preventDefault(), // the search keeps the focus
        onclick: () => choose(place),
      },
      tile(id),
      make("div", { class: "chip-text" }, make("span", { class: "item-title" }, titleOf(id)), factLine(id)),
    ),
  );
  const off = { class: "nothing", role: "option", "aria-disabled": "true" };
  const nothing = make("li", off, "No title has these words.");
  element("suggestions").replaceChildren(...(rows.length ? rows : [nothing]));
  element("suggestions").hidden = false;
  element("search").setAttribute("aria-expanded", "true");
  element("search").removeAttribute("aria-activedescendant");
  element("search-status").textContent = ids.length ? `${ids.length} items found` : "No items found";
}

function closeSuggestions() {
  [suggestions, active] = [[], -1];
  element("suggestions").hidden = true;
  element("search").setAttribute("aria-expanded", "false");
  element("search").removeAttribute("aria-activedescendant");
  element("search-status").textContent = "";
}

function choose(place) {
  const id = suggestions[place];
  if (id === undefined) return;
  element("search").value = "";
  closeSuggestions();
  addToHistory(id);
}

function activate(place) {
  const rows = [...element("suggestions").children];
  active = (place + rows.length) % rows.length;
  rows.forEach((row, number) => row.setAttribute("aria-selected", String(number === active)));
  rows[active].scrollIntoView({ block: "nearest" });
  element("search").setAttribute("aria-activedescendant", `suggestion-${active}`);
}

function searchKey(event) {
  if (event.key === "Escape") return closeSuggestions();
  if (!suggestions.length) return;
  if (event.key === "ArrowDown") activate(active + 1);
  else if (event.key === "ArrowUp") activate(active < 0 ? -1 : active - 1);
  else if (event.key === "Enter") choose(Math.max(0, active));
  else return;
  event.preventDefault();
}

// --- recommendations ---

function request(more) {
  const rest = {
    topk: state.count,
    ranking: state.ranking,
    ...(state.seen ? { exclude_seen: state.seen === "true" } : {}),
    ...(state.rule ? { rule: state.rule } : {}),
    ...(state.history.length || state.fallback === "popular" ? {} : { fallback: state.fallback }),
    ...more,
  };
  const body = bodyOf(rest, state.withdrawn.length ? { deny: state.withdrawn } : {});
  const instance = bodyOf({ user_id: "demo" }, { item_ids: state.history });
  return `${body.slice(0, -1)},"instances":[${instance}]}`;
}

async function predict(body, signal) {
  const answer = await ask(`predictions/${state.model.name}`, { body, signal });
  return { ...answer.predictions[0], warnings: answer.warnings ?? [] };
}

async function recommend() {
  asking?.abort();
  const mine = (asking = new AbortController());
  element("list").setAttribute("aria-busy", "true");
  const began = performance.now();
  try {
    const answer = await predict(request({ titles: true, scores: true }), mine.signal);
    if (mine === asking) showList(answer, performance.now() - began);
  } catch (error) {
    if (error.name !== "AbortError" && mine === asking) showFailure(error);
  }
}

function showFailure(error) {
  element("list").removeAttribute("aria-busy");
  if (needsToken(error)) return askForToken(error);
  const ofRule = error.field === "rule";
  showRuleError(ofRule ? sentence(error.message) : "");
  element("failure").hidden = ofRule;
  element("failure-text").textContent = ofRule ? "" : sentence(error.message);
  element("status").textContent = ofRule ? "The rule cannot be used, so this is the list before." : "";
  if (!ofRule) clearList();
}

function clearList() {
  element("list").replaceChildren();
  element("notes").replaceChildren();
}

function showRuleError(text) {
  element("rule-error").textContent = text;
  if (text) element("rule").setAttribute("aria-invalid", "true");
  else element("rule").removeAttribute("aria-invalid");
}

function showList(answer, milliseconds) {
  showRuleError("");
  element("failure").hidden = true;
  explained = null;
  remember(answer.items);
  const ids = answer.predictions.map(String);
  const held = element("list").contains(document.activeElement);
  const scores = answer.scores ?? [];
  const cards = ids.map((id, place) => card(id, place, scores[place] ?? null, scores));
  element("list").replaceChildren(...cards);
  element("list").removeAttribute("aria-busy");
  element("notes").replaceChildren(...notesOf(answer).map((note) => make("li", {}, note)));
  const items = ids.length === 1 ? "1 item" : `${ids.length} items`;
  element("status").textContent = `${items} in ${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
  if (held) element("results-title").focus();
}

function notesOf(answer) {
  const names = { popular: "popular items", recent: "items of the last days", new: "new items" };
  const fallback = answer.popular ? "popular" : answer.fallback;
  const notes = answer.warnings.map(sentence);
  if (answer.unknown_items) notes.push(`The model does not know ${answer.unknown_items} of the history's items.`);
  if (fallback) notes.push(`No known item in the history, so these are ${names[fallback]}, the same for everyone.`);
  if (answer.note) notes.push(sentence(answer.note));
  return notes;
}

function card(id, place, score, scores) {
  const title = titleOf(id);
  const [why, like] = [panelOf(`why-${place}`), panelOf(`like-${place}`)];
  const actions = make(
    "div",
    { class: "actions" },
    score === null ? null : opener("Why", `Why ${title}`, why, () => fillWhy(why, place)),
    opener("More like this", `More like ${title}`, like, () => fillSimilar(like, id, "model")),
    button("Add to history", `Add ${title} to the history`, () => addToHistory(id)),
    button("Withdraw", `Withdraw ${title} on this page`, () => withdraw(id), { class: "quiet" }),
  );
  return make(
    "li",
    { class: "card" },
    make("span", { class: "place", "aria-hidden": "true" }, String(place + 1)),
    tile(id),
    make("div", { class: "card-text" }, make("h3", { class: "item-title" }, title), factLine(id)),
    score === null ? null : scoreBar(score, scores),
    actions,
    why,
    like,
  );
}

// The bar runs from the last item of the list, a sliver, to the first, the whole width.
function scoreBar(score, scores) {
  const [best, last] = [scores[0], scores[scores.length - 1]];
  const height = best > last ? (score - last) / (best - last) : 1;
  const about = "Log-probability; the bar runs from the list's last item to its first.";
  return make(
    "div",
    { class: "score", title: about },
    share(make("span", { class: "bar", "aria-hidden": "true" }), 0.06 + 0.94 * height),
    make("span", { class: "number" }, make("span", { class: "visually-hidden" }, "score "), signed(score, false)),
  );
}

function signed(value, plus = true) {
  return `${value < 0 ? "−" : plus ? "+" : ""}${Math.abs(value).toFixed(2)}`;
}

function panelOf(id) {
  return make("div", { class: "details", id, hidden: true });
}

// A button that opens and closes a panel, and fills it when it opens.
function opener(text, label, panel, fill) {
  const opened = button(text, label, toggle, { "aria-expanded": "false", "aria-controls": panel.id });
  function toggle() {
    panel.hidden = !panel.hidden;
    opened.setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden) fill();
  }
  return opened;
}

// --- why ---

async function fillWhy(panel, place) {
  panel.replaceChildren(make("p", { role: "status" }, "Asking the model…"));
  explained ??= predict(request({ explain: true }));
  const mine = explained;
  try {
    const { explanations } = await mine;
    if (mine === explained) panel.replaceChildren(...explanation(explanations[place], explanations.length));
  } catch (error) {
    if (mine !== explained) return;
    explained = null;
    if (needsToken(error)) return askForToken(error);
    panel.replaceChildren(make("p", { class: "error", role: "alert" }, sentence(error.message)));
  }
}

function explanation(why, count) {
  if (!why) return [make("p", {}, `Only the first ${count} items of a list are explained.`)];
  const largest = Math.max(...why.reasons.map((reason) => Math.abs(reason.effect)), 1e-9);
  const parts = [make("p", {}, ranksOf(why))];
  if (why.reasons.length) {
    parts.push(
      make("p", { class: "help" }, "The items of the history that moved its score most, from the model itself:"),
      make("ul", { class: "reasons" }, ...why.reasons.map((reason) => reasonRow(reason, largest))),
    );
  }
  return parts;
}

function ranksOf(why) {
  const places = [
    why.dense_rank && `place ${why.dense_rank} by the dense head`,
    why.generative_rank && `place ${why.generative_rank} by generating its code`,
  ].filter(Boolean);
  const ranked = `Score ${signed(why.score, false)} by the ${why.ranking} ranking`;
  return `${[ranked, ...places].join("; ")}.`;
}

function reasonRow(reason, largest) {
  const id = String(reason.item_id);
  const helps = reason.effect >= 0;
  const effect = make("span", { class: `effect ${helps ? "up" : "down"}`, "aria-hidden": "true" });
  const facts = [
    reason.shared_levels > 0 && `codes begin with the same ${numbers(reason.shared_levels)}`,
    typeof reason.text_similarity === "number" && `texts ${reason.text_similarity.toFixed(2)} alike`,
    reason.bought_together > 0 && `bought together ${times(reason.bought_together)}`,
  ].filter(Boolean);
  return make(
    "li",
    {},
    make("span", { class: "item-title" }, reason.title ?? titleOf(id)),
    share(effect, Math.abs(reason.effect) / largest),
    make(
      "span",
      { class: "number" },
      make("span", { class: "visually-hidden" }, helps ? "raises the score by " : "lowers the score by "),
      signed(reason.effect),
    ),
    make("span", { class: "signs" }, ...facts.map((text) => make("span", { class: "sign" }, text))),
  );
}

function numbers(count) {
  return count === 1 ? "number" : `${count} numbers`;
}

function times(count) {
  return count === 1 ? "once" : `${count} times`;
}

// --- more like this ---

async function fillSimilar(panel, id, by) {
  const label = make("label", { for: `${panel.id}-by` }, "Like it by");
  const choice = make("select", { id: `${panel.id}-by`, onchange: () => fillRows(choice.value) });
  choice.append(...Object.entries(LIKENESS).map(([value, text]) => make("option", { value }, text)));
  choice.value = by;
  const rows = make("div", { "aria-live": "polite" });
  panel.replaceChildren(make("div", { class: "field inline" }, label, choice), rows);

  async function fillRows(wanted) {
    try {
      const rest = { topk: 5, by: wanted, titles: true, scores: true, ...(state.rule ? { rule: state.rule } : {}) };
      const lists = { item_ids: [id], ...(state.withdrawn.length ? { deny: state.withdrawn } : {}) };
      const answer = await ask(`similar/${state.model.name}`, { body: bodyOf(rest, lists) });
      remember(answer.items);
      rows.replaceChildren(similarRows(answer));
    } catch (error) {
      if (needsToken(error)) return askForToken(error);
      rows.replaceChildren(make("p", { class: "error" }, sentence(error.message)));
    }
  }
  await fillRows(by);
}

function similarRows(answer) {
  const ids = answer.predictions.map(String);
  return make(
    "ul",
    { class: "chips small" },
    ...ids.map((id, place) =>
      make(
        "li",
        { class: "chip" },
        tile(id),
        make("div", { class: "chip-text" }, make("span", { class: "item-title" }, titleOf(id)), factLine(id)),
        make("span", { class: "number" }, (answer.scores?.[place] ?? 0).toFixed(2)),
        button("Add", `Add ${titleOf(id)} to the history`, () => addToHistory(id)),
      ),
    ),
  );
}

// --- withdrawn on this page ---

function withdraw(id) {
  if (!state.withdrawn.includes(id)) state.withdrawn.push(id);
  update();
}

function showWithdrawn() {
  element("withdrawn-box").hidden = !state.withdrawn.length;
  element("withdrawn").replaceChildren(
    ...state.withdrawn.map((id, place) =>
      make(
        "li",
        { class: "chip" },
        make("span", { class: "chip-text item-title" }, titleOf(id)),
        button("×", `Recommend ${titleOf(id)} again`, () => restore(place), { class: "icon remove" }),
      ),
    ),
  );
}

function restore(place) {
  state.withdrawn.splice(place, 1);
  update({ focus: () => focusIn("withdrawn", Math.min(place, state.withdrawn.length - 1), 0) });
}

// --- a new item of the catalogue ---

// Only a server with a token lets a page change its model.
function showAddition() {
  const may = sessionStorage.getItem("genrec-token") !== null;
  element("addition").hidden = !may;
  element("addition-off").hidden = may;
  const free = String(Math.trunc(Date.now() / 1000)); // most likely no item has it
  if (may && !element("addition-id").value) element("addition-id").value = free;
}

async function addItem(event) {
  event.preventDefault();
  const { item_id: id, price, ...texts } = Object.fromEntries(new FormData(element("addition")));
  const given = Object.entries(texts).filter(([, text]) => text.trim());
  const fields = JSON.stringify({ ...Object.fromEntries(given), ...(price ? { price: Number(price) } : {}) });
  const [, shownId] = /^\s*(.*?)\s*$/.exec(id);
  const written = state.model.item_ids === "text" ? JSON.stringify(shownId) : shownId;
  element("addition-error").textContent = "";
  if (!isId(shownId)) return refuseAddition("The id must be a whole number, as the ids of this model are");
  element("addition-status").textContent = "Adding it. The text model is being opened, which takes some seconds.";
  element("addition").inert = true;
  try {
    await ask("admin/add-items", { body: `{"items":[{"item_id":${written},${fields.slice(1)}]}` });
    const model = await ask("model");
    element("addition").reset();
    element("addition-id").value = "";
    const first = model.fallbacks.includes("new") ? " New users get it first if they get new items." : "";
    useModel(model);
    await describe([shownId]);
    element("addition-status").textContent = `${titleOf(shownId)} is item ${shownId} now and can be recommended.${first}`;
  } catch (error) {
    if (needsToken(error)) return askForToken(error);
    refuseAddition(error.message);
  } finally {
    element("addition").inert = false;
  }
}

function refuseAddition(message) {
  element("addition-status").textContent = "";
  element("addition-error").textContent = sentence(message);
}

// --- the model, the token, and the start ---

function showModel() {
  const { name, items, version, release, rankings, ranking } = state.model;
  element("model-name").textContent = name;
  const facts = {
    Release: release ? release.slice(0, 8) : "none, a folder",
    Version: version,
    Items: Number(items).toLocaleString("en"),
    Ranking: ranking,
  };
  element("facts").replaceChildren(
    ...Object.entries(facts).map(([term, value]) => {
      const whole = term === "Release" ? release : null;
      return make("div", {}, make("dt", {}, term), make("dd", { title: whole }, value));
    }),
  );
  const names = { auto: `auto (${ranking})` };
  element("rankings").replaceChildren(
    ...["auto", ...rankings].map((value) => {
      const radio = make("input", { type: "radio", name: "ranking", id: `ranking-${value}`, value });
      return make("span", { class: "segment" }, radio, make("label", { for: radio.id }, names[value] ?? value));
    }),
  );
  const counts = [...new Set([...COUNTS, state.count])].sort((a, b) => a - b);
  element("count").replaceChildren(...counts.map((count) => make("option", { value: count }, String(count))));
  for (const option of element("fallback").options) {
    option.hidden = option.disabled = !state.model.fallbacks.includes(option.value);
  }
  element("example").hidden = !state.model.examples;
  element("rule").disabled = !state.model.takes_rules;
  if (!state.model.takes_rules) element("rule").placeholder = "this model has no catalogue, so it takes no rules";
}

function showControls() {
  showModel();
  element(`ranking-${state.ranking}`).checked = true;
  element("count").value = String(state.count);
  element("seen").value = state.seen;
  element("rule").value = state.rule;
  element("fallback").value = state.fallback;
  showAddition();
}

function askForToken(error) {
  const shown = sessionStorage.getItem("genrec-token");
  sessionStorage.removeItem("genrec-token");
  element("main").hidden = true;
  element("waiting").hidden = true;
  element("gate").hidden = false;
  element("token-error").textContent = shown && error.code === "wrong_token" ? "This is not the server's token." : "";
  element("token").focus();
}

function wait(text) {
  element("waiting").hidden = false;
  element("waiting").textContent = text;
  setTimeout(start, POLL);
}

async function start() {
  try {
    state.model = await ask("model");
  } catch (error) {
    if (needsToken(error)) return askForToken(error);
    const opening = error.code === "not_ready";
    return wait(opening ? "The model is being opened. This page goes on by itself." : sentence(error.message));
  }
  element("waiting").hidden = element("gate").hidden = true;
  element("main").hidden = false;
  try {
    await openView();
  } catch (error) {
    showFailure(error);
  }
}

// Another release may have taken its place since. Where the server does not answer, the next click tells.
async function followModel() {
  if (!state.model || element("main").hidden || document.hidden) return;
  const model = await ask("model").catch(() => state.model);
  if (model.version !== state.model.version) useModel(model);
}

function useModel(model) {
  state.model = model;
  known.clear();
  openView();
}

function later(milliseconds, action) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

function choosing(id, name, read = (value) => value) {
  element(id).addEventListener("change", (event) => {
    state[name] = read(event.target.value);
    update();
  });
}

function useRule() {
  const rule = element("rule").value.trim();
  if (rule === state.rule) return;
  state.rule = rule;
  update();
}

function listen() {
  element("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("genrec-token", element("token").value.trim());
    element("token").value = "";
    start();
  });
  element("search").addEventListener("input", later(SEARCH_WAIT, search));
  element("search").addEventListener("keydown", searchKey);
  element("search").addEventListener("blur", closeSuggestions);
  element("example").addEventListener("click", drawExample);
  element("clear").addEventListener("click", () => {
    state.history = [];
    update({ focus: () => element("search").focus() });
  });
  element("rankings").addEventListener("change", (event) => {
    state.ranking = event.target.value;
    update();
  });
  element("rule").addEventListener("input", later(RULE_WAIT, useRule));
  element("rule").addEventListener("change", useRule);
  element("retry").addEventListener("click", recommend);
  element("addition").addEventListener("submit", addItem);
  element("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment holds the view
    element("results-title").focus();
  });
  choosing("count", "count", Number);
  choosing("seen", "seen");
  choosing("fallback", "fallback");
  addEventListener("hashchange", () => state.model && openView());
  addEventListener("focus", followModel);
  setInterval(followModel, FOLLOW);
}

listen();
start();
