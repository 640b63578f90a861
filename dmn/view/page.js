"use strict";
const find = (id) => document.getElementById(id);
const page = JSON.parse(find("data").textContent);
const [channels, height, width] = page.size;
const SIDE = 280; // least side of the canvas that is drawn on
const zoom = Math.max(1, Math.ceil(SIDE / Math.max(width, height)));
const PREDICTED = -1; // in place of a class
const NONE = -1; // in place of a rival
const MOST_BARS = 10;
const chosen = { image: 0, target: PREDICTED, rival: NONE, method: 0, stream: "", alpha: 0, opacity: 1 };
const night = window.matchMedia("(prefers-color-scheme: dark)");
let shown = null; // what is on the page: pixels, logits, target, rival, map
let source = null; // where it is from: `stored`, or of the live page `drawn`

const label = (index) => page.classes[index] ?? String(index);

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Return a function from a class to its map.
async function unpackMaps({ classes, maps }, key) {
  const { scales, data } = maps[key];
  const levels = new Int16Array((await unpack(data)).buffer);
  const size = height * width;
  return (index) => {
    const place = classes.indexOf(index);
    const part = levels.subarray(place * size, (place + 1) * size);
    return Float32Array.from(part, (level) => level * scales[place]);
  };
}

function difference(first, second) {
  return second ? first.map((value, index) => value - second[index]) : first;
}

function argmax(values) {
  return values.reduce((best, value, index) => (value > values[best] ? index : best), 0);
}

function probabilities(logits) {
  if (logits.length === 1) return [1 / (1 + Math.exp(-logits[0]))];
  const largest = Math.max(...logits);
  const shares = logits.map((value) => Math.exp(value - largest));
  const total = shares.reduce((sum, value) => sum + value, 0);
  return shares.map((value) => value / total);
}

// What explains the things that are shown: of saved explanations their own method, of a drawing
// what is in the graph.
function methods() {
  if (source === stored) return page.images[chosen.image].methods ?? page.methods;
  const [first] = page.methods;
  return [{ ...first, alphas: first.alphas.slice(0, 1) }];
}

// What is known of an image from the start.
async function stored() {
  const image = page.images[chosen.image];
  const { pixels, logits, classes, saved } = image;
  const key = `${methods()[chosen.method].name}/${chosen.alpha}/${chosen.stream}`;
  image.pixels = pixels ?? (await readPixels(image.picture));
  const map = await unpackMaps(image, key);
  const common = { pixels: image.pixels, logits, classes };
  if (saved) {
    const { target, rival } = saved; // whose difference is saved
    return { ...common, saved, target, rival: rival ?? NONE, map: map(target), scores: {} };
  }
  const target = chosen.target === PREDICTED ? argmax(logits) : chosen.target;
  const rival = chosen.rival === target ? NONE : chosen.rival;
  const scores = target === argmax(logits) && rival === NONE ? image.scores : {};
  return { ...common, target, rival, map: difference(map(target), rival !== NONE && map(rival)), scores };
}

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function fillClasses() {
  const { classes, logits, saved, target, rival } = shown;
  const options = (indices) => indices.map((index) => option(index, label(index)));
  const predicted = option(PREDICTED, `predicted: ${label(argmax(logits))}`);
  const none = option(NONE, "no other class");
  find("target").replaceChildren(...(saved ? [] : [predicted]), ...options(classes));
  find("rival").replaceChildren(none, ...options(saved ? [rival].filter((index) => index !== NONE) : classes));
  find("target").value = saved ? target : chosen.target;
  find("rival").value = rival;
  find("target").disabled = find("rival").disabled = Boolean(saved);
}

function fillMethods() {
  find("method").replaceChildren(...methods().map(({ name }, index) => option(index, name)));
  find("method").value = chosen.method;
  find("method").disabled = methods().length < 2;
  fillStreams();
}

function fillStreams() {
  const { streams } = methods()[chosen.method];
  if (!streams.includes(chosen.stream)) chosen.stream = streams.at(-1);
  const meaning = { g: "g: evidence", h: "h: counter-evidence", "g-h": "g - h: both" };
  const choices = streams.map((stream) => {
    const choice = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "stream", value: stream });
    input.checked = stream === chosen.stream;
    choice.append(input, ` ${meaning[stream]}`);
    return choice;
  });
  find("streams").replaceChildren(find("streams").querySelector("legend"), ...choices);
  find("streams").hidden = streams.length < 2;
  const { alphas } = methods()[chosen.method];
  find("shift").hidden = alphas.length < 2;
  find("alpha").max = alphas.length - 1;
  find("alpha").value = chosen.alpha;
  const alpha = alphas[chosen.alpha] ?? "";
  find("alpha-value").value = alpha;
  find("alpha").setAttribute("aria-valuetext", alpha);
}

function fillImages() {
  const buttons = page.images.map(({ name, picture }, index) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    button.type = "button";
    button.dataset.image = index;
    button.title = name;
    Object.assign(image, { src: picture, alt: name });
    button.append(image);
    return button;
  });
  find("images").replaceChildren(...buttons);
}

function markImage() {
  find("name").textContent = source === stored ? page.images[chosen.image].name : "yours";
  for (const button of find("images").children) {
    button.setAttribute("aria-pressed", source === stored && +button.dataset.image === chosen.image);
  }
}

// Show something else, by the same method where there is a choice.
function use(from, image) {
  if (from === source && image === chosen.image) return;
  const { name } = methods()[chosen.method];
  source = from;
  chosen.image = image;
  const place = methods().findIndex((method) => method.name === name);
  chosen.method = Math.max(0, place);
  if (place < 0 || chosen.alpha >= methods()[place].alphas.length) chosen.alpha = 0;
  fillMethods();
}

let running = false;
let wanted = false;

// Show what is chosen; of several calls while it works the last one counts.
async function refresh() {
  wanted = true;
  if (running) return;
  running = true;
  while (wanted) {
    wanted = false;
    try {
      shown = await source();
      show();
    } catch (error) {
      find("value").value = `this cannot be shown: ${error.message}`;
    }
  }
  running = false;
}

function show() {
  if (source === stored) paintInput(shown.pixels);
  paint();
  paintBars();
  paintScores();
  fillClasses();
  markImage();
  hover();
  document.body.dataset.shown = `${shown.target}/${shown.rival}/${chosen.stream}`;
}

const cursor = { x: 0, y: 0, active: false };

function hover() {
  if (!cursor.active || !shown) return;
  const pixel = cursor.y * width + cursor.x;
  const values = Array.from({ length: channels }, (_, channel) =>
    shown.pixels[channel * height * width + pixel].toFixed(2),
  );
  const value = shown.map[pixel].toPrecision(3);
  find("value").value = `column ${cursor.x}, row ${cursor.y}: map ${value}, image ${values.join(" ")}`;
}

function point({ clientX, clientY, currentTarget }) {
  const box = currentTarget.getBoundingClientRect();
  cursor.x = Math.min(width - 1, Math.max(0, Math.floor(((clientX - box.x) / box.width) * width)));
  cursor.y = Math.min(height - 1, Math.max(0, Math.floor(((clientY - box.y) / box.height) * height)));
  cursor.active = true;
  hover();
}

function step(event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!steps[event.key]) return;
  event.preventDefault();
  const [right, down] = steps[event.key];
  cursor.x = Math.min(width - 1, Math.max(0, cursor.x + right));
  cursor.y = Math.min(height - 1, Math.max(0, cursor.y + down));
  cursor.active = true;
  hover();
}

function choose({ id, name, value }) {
  if (id === "opacity") {
    chosen.opacity = value / 100;
    paint();
    return;
  }
  if (name === "stream") chosen.stream = value;
  else chosen[id] = +value;
  if (id === "method") chosen.alpha = 0;
  if (id === "method" || id === "alpha") fillStreams();
  refresh();
}

function listen() {
  find("images").addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    use(stored, +button.dataset.image);
    const { classes, saved } = page.images[chosen.image];
    if (!saved && !classes.includes(chosen.target)) chosen.target = PREDICTED;
    if (!saved && !classes.includes(chosen.rival)) chosen.rival = NONE;
    refresh();
  });
  find("bars").addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    chosen.target = +button.dataset.target;
    refresh();
  });
  for (const form of document.forms) {
    form.addEventListener("input", ({ target }) => choose(target));
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  find("map").addEventListener("pointermove", point);
  find("map").addEventListener("pointerdown", point);
  find("map").addEventListener("keydown", step);
  night.addEventListener("change", () => shown && paint());
}

function start() {
  for (const [id, scale] of [["input", zoom], ["map", 1]]) {
    Object.assign(find(id), { width: width * scale, height: height * scale });
    find(id).getContext("2d", { willReadFrequently: true });
  }
  source = stored;
  fillMethods();
  fillImages();
  listen();
  refresh();
  if (page.live) startLive();
}
