// The page of `rnx ui`. Whatever comes from files, names or models is set as text, never as markup.

const byId = (id) => document.getElementById(id);
const turns = byId("turns"), sight = byId("sight"), large = byId("large"), box = byId("question"), notice = byId("notice");
const arrows = { up: "↑", down: "↓", same: "=" };
const cssPixels = (name) => parseFloat(getComputedStyle(document.body).getPropertyValue(name)); // of a custom property
const silent = "The program behind this page does not answer; is it still running?";

function el(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null));
  return element;
}

function button(className, name, action, ...children) {
  const element = el("button", className, ...children);
  element.type = "button";
  if (name) element.setAttribute("aria-label", name);
  element.addEventListener("click", action);
  return element;
}

function svgElement(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function imageOf(hit, side) {
  const image = el("img");
  image.alt = hit.name;
  image.loading = "lazy";
  image.addEventListener("error", () => image.replaceWith(el("span", "broken", "no image")));
  image.src = `api/image?side=${side}&id=${encodeURIComponent(hit.id)}`;
  return image;
}

const marked = (excerpt) => excerpt.map(([text, isWord]) => (isWord ? el("mark", "", text) : text));
const formatScore = (score) => (Math.abs(score) >= 0.1 || score === 0 ? score.toFixed(2) : score.toPrecision(2));
const countOf = (count, singular, plural = `${singular}s`) => `${count.toLocaleString("en")} ${count === 1 ? singular : plural}`;

function showNotice(line) {
  notice.textContent = line;
  notice.hidden = !line;
}

// ---- the conversation ------------------------------------------------------------------------------------------------

let key = sessionStorage.getItem("conversation");
function newKey() {
  key = crypto.randomUUID();
  sessionStorage.setItem("conversation", key);
}
if (!key) newKey();

let shown = { hits: [], index: -1, turn: null }; // what the panel and the dialog show
let stop = null; // ends the answer at work

class Turn {
  constructor(question) {
    this.question = question;
    this.hits = [];
    this.wait = el("p", "waiting", "Looking");
    this.answer = el("div", "answer");
    this.answer.setAttribute("aria-live", "polite");
    this.root = el("article", "turn", el("h2", "", question), this.wait, this.answer);
    turns.append(this.root);
    this.root.scrollIntoView({ block: "start" });
  }

  apply(event) {
    if (event.found) this.showSources(event.found);
    if (event.said) this.addText(event.said);
    if (event.failed) this.fail(event.failed);
  }

  showSources({ query, before, after, seconds }) {
    this.hits = after;
    this.wait.textContent = "Reading";
    if (query && query !== this.question) this.wait.before(el("p", "looked", `Looked for: ${query}`));
    if (!after.length) return;
    this.cards = after.map((hit, index) => sourceCard(hit, () => look(this, index)));
    this.root.append(el("div", "sources", ...this.cards), reordered(this, before, after, seconds));
    look(this, 0, false);
  }

  addText(text) {
    this.text = (this.text ?? "") + text;
    this.wait.remove();
    const pieces = this.text.split(/\[(\d{1,2})\]/); // text, number, text, ...
    this.answer.replaceChildren(...pieces.map((piece, i) => (i % 2 ? this.cite(Number(piece)) : piece)));
    const first = Number(pieces[1]) - 1; // The source that the answer rests on stands beside it.
    if (!this.cited && this.hits[first]) look(this, first, false), (this.cited = true);
  }

  cite(rank) {
    if (rank < 1 || rank > this.hits.length) return `[${rank}]`;
    const citation = button("cite", `Source ${rank}: ${this.hits[rank - 1].name}`, () => look(this, rank - 1), String(rank));
    citation.title = this.hits[rank - 1].name;
    return citation;
  }

  fail(line) {
    this.wait.remove();
    const fault = el("p", "fault", line);
    fault.setAttribute("role", "alert");
    this.answer.after(fault);
  }

  end() {
    this.wait.remove();
    this.root.dataset.done = "true";
  }
}

async function ask(question) {
  const turn = new Turn(question), control = new AbortController();
  stop = () => control.abort();
  busy(true);
  try {
    const reply = await fetch("api/ask", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Conversation": key },
      body: JSON.stringify({ question }),
      signal: control.signal,
    });
    if (!reply.ok) throw new Error((await reply.json()).message);
    let last = {};
    for await (last of events(reply.body)) turn.apply(last);
    if (!last.done && !last.failed) turn.fail(silent);
  } catch (error) {
    turn.fail(control.signal.aborted ? "Stopped." : error instanceof TypeError ? silent : error.message);
  } finally {
    turn.end();
    stop = null;
    busy(false);
    refresh();
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function busy(is) {
  byId("send").textContent = is ? "Stop" : "Ask";
  byId("welcome").hidden = true;
  if (!is) box.focus();
}

// ---- sources ---------------------------------------------------------------------------------------------------------

function glance(hit) {
  if (hit.kind !== "text") return el("div", "glance", imageOf(hit, 300));
  return el("div", "glance words", hit.excerpt.map(([text]) => text).join("").slice(0, 140));
}

function sourceCard(hit, action) {
  const where = el("div", "where", el("b", "", String(hit.rank)), hit.name);
  const how = el("div", "how", el("span", "", formatScore(hit.score)), movement(hit));
  const card = button("source-card", "", action, glance(hit), el("div", "label", where, how));
  card.title = hit.name;
  return card;
}

function movement(hit) {
  const label = el("span", hit.moved, hit.moved === "same" ? "" : `${arrows[hit.moved]} ${hit.was}`);
  label.title = `the retriever had it at ${hit.was}`;
  return label;
}

function reordered(turn, before, after, seconds) {
  const rank = new Map(after.map((hit) => [hit.id, hit.rank]));
  const newRank = (hit) => {
    const to = rank.get(hit.id);
    if (!to) return el("span", "gone", "–");
    return el("span", to < hit.rank ? "up" : to > hit.rank ? "down" : "same", `→ ${to}`);
  };
  const oldRank = (hit) => el("span", hit.moved, `${arrows[hit.moved]} ${hit.was}`);
  const lists = el("div", "lists", list("Retrieved", before, newRank), links(before, after), list("Reranked", after, oldRank));
  const title = `Before and after reranking (${Math.round(seconds * 1000).toLocaleString("en")} ms)`;
  const details = el("details", "reorder", el("summary", "", title), lists);
  lists.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    const hit = [...after, ...before].find((other) => other.id === card?.dataset.id);
    if (!hit) return;
    const index = after.findIndex((other) => other.id === hit.id);
    if (index >= 0) look(turn, index);
    else look({ hits: [hit] }, 0);
  });
  return details;
}

function list(name, hits, moved) {
  const items = hits.map((hit) => {
    const bar = svgElement("svg", { class: "bar", "aria-hidden": "true" }, svgElement("rect", { width: `${hit.share * 100}%`, height: 4, rx: 2 }));
    const foot = el("p", "foot", el("span", "kind", hit.kind), bar, el("span", "", formatScore(hit.score)));
    const body = el("div", "body", el("p", "source", hit.name), el("p", "text", ...marked(hit.excerpt)), foot);
    const thumb = hit.kind === "text" ? null : el("div", "thumb", imageOf(hit, 300));
    const card = button(`card ${hit.kind}`, "", () => {}, el("div", "rank", el("b", "", String(hit.rank)), moved(hit)), thumb, body);
    card.dataset.id = hit.id;
    card.title = hit.name;
    return el("li", "", card);
  });
  return el("div", `list ${name.toLowerCase()}`, el("h3", "", name), el("ol", "", ...items));
}

function links(before, after) {
  const cardHeight = cssPixels("--card-height"), rowHeight = cardHeight + cssPixels("--card-gap"), linkWidth = cssPixels("--link-width");
  const height = rowHeight * Math.max(before.length, after.length), half = linkWidth / 2;
  const middle = (row) => row * rowHeight + cardHeight / 2;
  const old = new Map(before.map((hit, row) => [hit.id, row])), reranked = new Set(after.map((hit) => hit.id));
  const stubs = before.flatMap((hit, row) => (reranked.has(hit.id) ? [] : [svgElement("path", { class: "gone", d: `M0 ${middle(row)}h12` })]));
  const curves = after.map((hit, row) => {
    const start = old.has(hit.id) ? middle(old.get(hit.id)) : height, end = middle(row);
    const d = `M0 ${start}C${half} ${start} ${half} ${end} ${linkWidth} ${end}`;
    return svgElement("path", { class: hit.moved + (old.has(hit.id) ? "" : " far"), d });
  });
  const size = { height, viewBox: `0 0 ${linkWidth} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  return el("div", "links", svgElement("svg", size, ...stubs, ...curves));
}

// Show a source in the panel beside the conversation; on a small screen, which has no panel, in the dialog.
function look(turn, index, isClicked = true) {
  shown = { hits: turn.hits, index, turn };
  for (const element of document.querySelectorAll("[aria-current]")) element.removeAttribute("aria-current");
  turn.cards?.[index]?.setAttribute("aria-current", "true");
  for (const citation of turn.answer?.querySelectorAll(".cite") ?? []) {
    if (citation.textContent === String(index + 1)) citation.setAttribute("aria-current", "true");
  }
  const hit = turn.hits[index];
  sight.hidden = false;
  sight.replaceChildren(head(hit, false), facts(hit), ...content(hit));
  if (large.open || (isClicked && getComputedStyle(sight).display === "none")) enlarge();
}

function head(hit, closes) {
  const steps = shown.hits.length > 1 ? [["‹", "Previous source", -1], ["›", "Next source", 1]] : [];
  const buttons = steps.map(([sign, name, step]) => button("quiet", name, () => walk(step), sign));
  if (closes) buttons.push(button("quiet", "Close", () => large.close(), "×"));
  return el("div", "seen-head", el("h2", "", `${shown.hits.length > 1 ? `[${hit.rank}] ` : ""}${hit.name}`), ...buttons);
}

function facts(hit) {
  return el("p", "facts", `Score ${formatScore(hit.score)}; the retriever had it at ${hit.was}`);
}

function content(hit) {
  if (hit.kind === "text") return [el("div", "passage", hit.text)];
  const sheet = button("bare sheet", "Enlarge the image", enlarge, imageOf(hit, 1600));
  const text = hit.text.trim() ? el("details", "passage", el("summary", "", "Text of the page"), el("div", "", hit.text)) : null;
  return text ? [sheet, text] : [sheet];
}

function enlarge() {
  const hit = shown.hits[shown.index], stage = el("div", "stage");
  if (hit.kind === "text") stage.append(el("div", "passage", hit.text));
  else {
    const image = imageOf(hit, 1600);
    image.addEventListener("click", () => stage.classList.toggle("whole"));
    stage.append(image);
  }
  large.replaceChildren(el("div", "frame", head(hit, true), stage));
  if (!large.open) large.showModal();
}

function walk(step) {
  const { turn, hits, index } = shown;
  if (hits.length) look(turn, (index + step + hits.length) % hits.length);
}

// ---- files -----------------------------------------------------------------------------------------------------------

let index = { nodes: 0, files: [], more: 0, writer: null, max_bytes: Infinity };
const uploads = new Map(); // files on their way, by a number that counts them
let timer = 0;

async function refresh() {
  clearTimeout(timer);
  try {
    index = await (await fetch("api/index")).json();
    if (notice.textContent === silent) showNotice("");
  } catch {
    showNotice(silent);
  }
  showFiles();
  const working = index.files.some((file) => ["waiting", "indexing"].includes(file.state));
  timer = setTimeout(refresh, working ? 700 : 15_000);
}

function showFiles() {
  const rows = [...index.files].reverse().map((file) => el("li", file.state, el("span", "name", file.name), ...stateOf(file)));
  const coming = [...uploads.values()].reverse().map(comingRow);
  byId("files").replaceChildren(...coming, ...rows);
  byId("stock").textContent = `${countOf(index.files.length + index.more, "file")}, ${countOf(index.nodes, "page or part", "pages and parts")}`;
  byId("writer").textContent = index.writer
    ? `Answers are written by ${index.writer} from the sources below them.`
    : "Answers are quoted from the files; no language model is at work.";
  const filled = index.nodes > 0, [title, text, choose] = byId("welcome").firstElementChild.children;
  byId("welcome").classList.toggle("empty", !filled);
  title.textContent = filled ? "Ask your documents" : "Add a file, then ask about it";
  text.textContent = filled
    ? "Pages, images and texts are read together as one list. Each answer comes with its sources, and with what reranking changed."
    : "Drop PDFs or images here. A PDF is read page by page, as text and as an image.";
  choose.hidden = filled;
  byId("welcome").hidden = turns.childElementCount > 0;
}

function stateOf(file) {
  if (file.state === "failed") return [el("span", "failed", file.note)];
  const parts = file.name.endsWith(".pdf") ? countOf(file.total, "page") : file.total > 1 ? countOf(file.total, "part") : "";
  if (file.state === "ready") return [el("span", "about", [parts, file.note].filter(Boolean).join("; "))];
  if (file.state === "waiting") return [el("span", "about", "waits to be read"), bar(0, 1, file.name)];
  const progress = file.total ? `reading, ${file.done} of ${file.total}` : "reading";
  return [el("span", "about", progress), bar(file.done, file.total, file.name)];
}

function bar(value, total, name) {
  const element = el("progress");
  element.max = total || 1;
  element.value = value;
  element.setAttribute("aria-label", name);
  return element;
}

function comingRow(coming) {
  const { name, fault, sent, size } = coming, away = () => (coming.request.abort(), uploads.delete(coming.id), showFiles());
  const state = fault ? [el("span", "failed", fault)] : [el("span", "about", "on its way"), bar(sent, size, name)];
  return el("li", "", el("span", "name", name), ...state, button("bare away", `Remove ${name} from the list`, away, "×"));
}

let count = 0;
function send(file) {
  const request = new XMLHttpRequest();
  const coming = { id: ++count, name: file.name, size: file.size, sent: 0, fault: "", request };
  uploads.set(coming.id, coming);
  const fail = (line) => ((coming.fault = line), showFiles());
  if (file.size > index.max_bytes) return fail(`has more than ${index.max_bytes / 2 ** 20} MiB; choose a smaller file.`);
  if (!file.size) return fail("is empty (0 bytes); choose another file.");
  request.upload.addEventListener("progress", (event) => ((coming.sent = event.loaded), showFiles()));
  request.addEventListener("error", () => fail("did not arrive; is the program still running?"));
  request.addEventListener("load", () => {
    const reply = JSON.parse(request.responseText || "{}");
    if (request.status >= 300) return fail((reply.message ?? "was refused.").replace(`${file.name}: `, ""));
    uploads.delete(coming.id);
    showNotice(reply.again ? `${file.name} is there already, as ${reply.file.name}.` : "");
    refresh();
  });
  request.open("PUT", "api/files");
  request.setRequestHeader("X-File-Name", encodeURIComponent(file.name));
  request.send(file);
  showFiles();
}

const sendAll = (files) => [...files].forEach(send);

// ---- input ---------------------------------------------------------------------------------------------------------

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (stop) return stop();
  const question = box.value.trim();
  if (!question) return box.focus();
  box.value = "";
  showNotice("");
  ask(question);
});

box.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!stop) byId("ask").requestSubmit();
});

byId("begin").addEventListener("click", () => {
  stop?.();
  fetch("api/conversation", { method: "DELETE", headers: { "X-Conversation": key } }).catch(() => {});
  newKey();
  turns.replaceChildren();
  sight.hidden = true;
  shown = { hits: [], index: -1, turn: null };
  showFiles();
  box.focus();
});

byId("choose").addEventListener("click", () => byId("file").click());
byId("welcome").querySelector("button").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  sendAll(event.target.files);
  event.target.value = "";
});

let over = 0;
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => carriesFiles(event) && ((over += 1), (byId("drop").hidden = false)));
addEventListener("dragleave", (event) => carriesFiles(event) && (over -= 1) <= 0 && (byId("drop").hidden = true));
addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  over = 0;
  byId("drop").hidden = true;
  sendAll(event.dataTransfer.files);
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("textarea, input");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    box.focus();
  } else if (event.key === "Escape" && stop && !large.open) stop();
  else if (!typing && event.key === "ArrowLeft") walk(-1);
  else if (!typing && event.key === "ArrowRight") walk(1);
});

addEventListener("visibilitychange", () => document.hidden || refresh());

if (matchMedia("(max-width: 720px)").matches) document.querySelector(".stock").open = false;
const past = await fetch("api/conversation", { headers: { "X-Conversation": key } }).then((reply) => reply.json(), () => []);
for (const { question, events } of past) {
  const turn = new Turn(question);
  events.forEach((event) => turn.apply(event));
  turn.end();
}
await refresh();
document.documentElement.dataset.ready = "true";
