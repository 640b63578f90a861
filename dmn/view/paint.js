// What is drawn: the image, the map over it, the classes and the scores.
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
  const { logits, target, saved, classes } = shown;
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
    button.disabled = Boolean(saved) || !classes.includes(index);
    const share = `${(100 * shares[index]).toFixed(1)} %`;
    for (const text of [label(index), logits[index].toFixed(2), share]) {
      const part = document.createElement("span");
      part.textContent = text;
      button.append(part);
    }
    button.title = label(index);
    row.append(button);
    return row;
  });
  const focused = document.activeElement?.dataset?.target;
  find("bars").replaceChildren(...rows);
  if (focused) find("bars").querySelector(`[data-target="${focused}"]`)?.focus();
}

function paintScores() {
  const method = methods()[chosen.method];
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
