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

async function readPixels(picture) {
  const image = new Image();
  image.src = picture;
  await image.decode();
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return toPlanes(context.getImageData(0, 0, width, height).data);
}

// From red, green, blue and opacity of each pixel to one plane per channel, in [0, 1].
function toPlanes(rgba) {
  const size = height * width;
  const planes = new Float32Array(channels * size);
  for (let pixel = 0; pixel < size; pixel++) {
    const [red, green, blue] = rgba.subarray(4 * pixel, 4 * pixel + 3);
    const values = channels === 1 ? [0.299 * red + 0.587 * green + 0.114 * blue] : [red, green, blue];
    values.forEach((value, channel) => (planes[channel * size + pixel] = value / 255));
  }
  return planes;
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

// What is known of an image from the start.
async function stored() {
  const image = page.images[chosen.image];
  const method = page.methods[chosen.method];
  image.pixels ??= await readPixels(image.picture);
  const target = chosen.target === PREDICTED ? argmax(image.logits) : chosen.target;
  const map = await unpackMaps(image, `${method.name}/${chosen.alpha}/${chosen.stream}`);
  const rival = chosen.rival === target ? NONE : chosen.rival;
  return {
    pixels: image.pixels,
    logits: image.logits,
    classes: image.classes,
    target,
    rival,
    map: difference(map(target), rival === NONE ? null : map(rival)),
    scores: target === argmax(image.logits) && rival === NONE ? image.scores : {},
  };
}

// As dmn.viz.overlay draws it.
function colour({ pixels, map }) {
  const style = night.matches ? page.style.dark : page.style.light;
  const size = height * width;
  const magnitudes = map.map(Math.abs).sort().reverse();
  const top = Math.max(magnitudes[Math.floor(page.style.saturated * size)], magnitudes[0] / 10, 1e-12);
  const swapped = chosen.stream === "h";
  const [positive, negative] = swapped
    ? [style.negative, style.positive]
    : [style.positive, style.negative];
  const depth = channels === 1 ? page.style.ink : page.style.photograph;
  const rgba = new Uint8ClampedArray(4 * size);
  for (let pixel = 0; pixel < size; pixel++) {
    let grey = 0;
    for (let channel = 0; channel < channels; channel++) grey += pixels[channel * size + pixel];
    grey /= channels;
    const image = depth * (style.dark || channels === 1 ? grey : 1 - grey);
    const strength = map[pixel] / top;
    const opacity = Math.min(1, Math.abs(strength)) * chosen.opacity;
    const paint = strength > 0 ? positive : negative;
    for (let part = 0; part < 3; part++) {
      const value = style.dark
        ? 1 - (1 - style.background[part]) * (1 - image) * (1 - opacity * paint[part])
        : (1 - image) * (1 - opacity * (1 - paint[part]));
      rgba[4 * pixel + part] = 255 * value;
    }
    rgba[4 * pixel + 3] = 255;
  }
  return new ImageData(rgba, width, height);
}

function paint() {
  find("map").getContext("2d").putImageData(colour(shown), 0, 0);
}

// Show an image, enlarged, where it can be drawn on.
function paintInput(pixels) {
  const rgba = new Uint8ClampedArray(4 * height * width).fill(255);
  const size = height * width;
  for (let pixel = 0; pixel < size; pixel++) {
    for (let part = 0; part < 3; part++) {
      rgba[4 * pixel + part] = 255 * pixels[(channels === 1 ? 0 : part) * size + pixel];
    }
  }
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  const context = find("input").getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, width * zoom, height * zoom);
}

function paintBars() {
  const { logits, target } = shown;
  const shares = probabilities(logits);
  const order = [...logits.keys()].sort((one, two) => logits[two] - logits[one]).slice(0, MOST_BARS);
  order.sort((one, two) => (logits.length <= MOST_BARS ? one - two : 0));
  const rows = order.map((index) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.target = index;
    button.style.setProperty("--share", shares[index]);
    button.setAttribute("aria-pressed", index === target);
    button.disabled = !shown.classes.includes(index);
    for (const text of [label(index), `${(100 * shares[index]).toFixed(1)} %`]) {
      const part = document.createElement("span");
      part.textContent = text;
      button.append(part);
    }
    button.title = `logit ${logits[index].toPrecision(4)}`;
    row.append(button);
    return row;
  });
  const focused = document.activeElement?.dataset?.target;
  find("bars").replaceChildren(...rows);
  if (focused) find("bars").querySelector(`[data-target="${focused}"]`)?.focus();
}

function paintScores() {
  const method = page.methods[chosen.method];
  const scores = shown.scores[`${method.name}/${chosen.stream}`] ?? {};
  const rows = Object.entries(chosen.alpha ? {} : scores).map(([metric, value]) => {
    const row = document.createElement("div");
    const [name, number] = ["dt", "dd"].map((tag) => document.createElement(tag));
    name.textContent = metric;
    number.textContent = value.toPrecision(3);
    row.append(name, number);
    return row;
  });
  find("scores").replaceChildren(...rows);
}

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function fillClasses() {
  const names = shown.classes.map((index) => option(index, label(index)));
  const predicted = argmax(shown.logits);
  const copies = names.map((each) => each.cloneNode(true));
  find("target").replaceChildren(option(PREDICTED, `predicted: ${label(predicted)}`), ...names);
  find("rival").replaceChildren(option(NONE, "no other class"), ...copies);
  find("target").value = chosen.target;
  find("rival").value = shown.rival;
}

function fillStreams() {
  const { streams } = page.methods[chosen.method];
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
  const { alphas } = page.methods[chosen.method];
  find("shift").hidden = alphas.length < 2;
  find("alpha").max = alphas.length - 1;
  find("alpha-value").value = alphas[chosen.alpha] ?? "";
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
  for (const button of find("images").children) {
    button.setAttribute("aria-pressed", source === stored && +button.dataset.image === chosen.image);
  }
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
    const found = await source();
    if (!found) continue;
    shown = found;
    if (source === stored) paintInput(shown.pixels);
    paint();
    paintBars();
    paintScores();
    fillClasses();
    markImage();
    hover();
    document.body.dataset.shown = `${shown.target}/${shown.rival}/${chosen.stream}`;
  }
  running = false;
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

function listen() {
  find("images").addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    chosen.image = +button.dataset.image;
    const { classes } = page.images[chosen.image];
    if (!classes.includes(chosen.target)) chosen.target = PREDICTED;
    if (!classes.includes(chosen.rival)) chosen.rival = NONE;
    source = stored;
    refresh();
  });
  find("bars").addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    chosen.target = +button.dataset.target;
    refresh();
  });
  find("controls").addEventListener("input", ({ target }) => {
    const { id, name, value } = target;
    if (id === "opacity") {
      chosen.opacity = value / 100;
      paint();
      return;
    }
    if (name === "stream") chosen.stream = value;
    else chosen[id] = +value;
    if (id === "method") chosen.alpha = find("alpha").value = 0;
    fillStreams();
    refresh();
  });
  find("controls").addEventListener("submit", (event) => event.preventDefault());
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
  find("method").replaceChildren(...page.methods.map(({ name }, index) => option(index, name)));
  find("methods").hidden = page.methods.length < 2;
  fillStreams();
  fillImages();
  listen();
  source = stored;
  refresh();
  if (page.live) startLive();
}
