// The network in the page: what is drawn or put there is classified and explained.
const PEN = 2.2; // width of a stroke, in pixels of a digit of 28
const DIGIT = 20 / 28; // share of the image that a centred digit fills
const live = { session: null, runtime: null, changes: 0, last: null, ended: null };

async function startLive() {
  const state = find("state");
  try {
    const code = new Blob([await unpack(find("runtime").textContent)], { type: "text/javascript" });
    live.runtime = await import(URL.createObjectURL(code));
    live.runtime.env.wasm.numThreads = 1;
    live.runtime.env.wasm.wasmBinary = (await unpack(find("wasm").textContent)).buffer;
    live.session = await live.runtime.InferenceSession.create(await unpack(find("graph").textContent));
    await run(new Float32Array(channels * height * width), 0, NONE); // the first one is slow
  } catch (error) {
    state.textContent = `the network does not run in this browser: ${error.message}`;
    return;
  }
  state.textContent = "clear it and draw, or open or drop a picture";
  listenLive();
  document.body.dataset.live = "ready";
}

// Return logits, and maps of the class minus those of the rival, by stream.
async function run(pixels, target, rival) {
  const { Tensor } = live.runtime;
  const targets = rival === NONE ? [target] : [target, rival];
  const images = new Float32Array(targets.length * pixels.length);
  targets.forEach((_, place) => images.set(pixels, place * pixels.length));
  const found = await live.session.run({
    image: new Tensor("float32", images, [targets.length, channels, height, width]),
    target: new Tensor("int64", BigInt64Array.from(targets, BigInt), [targets.length]),
  });
  const size = height * width;
  const { streams } = page.methods[0];
  const maps = streams.map((stream) => {
    const { data } = found[streams.length === 1 ? "map" : `map_${stream}`];
    return [stream, difference(data.slice(0, size), targets.length > 1 && data.slice(size))];
  });
  const logits = [...found.logits.data.slice(0, found.logits.data.length / targets.length)];
  return { logits, maps: Object.fromEntries(maps) };
}

// What is on the canvas.
async function drawn() {
  const { changes } = live;
  const version = `${changes}/${chosen.target}/${chosen.rival}`;
  if (live.last?.version !== version) {
    const pixels = readCanvas();
    let target = chosen.target === PREDICTED ? (live.last?.target ?? 0) : chosen.target;
    let rival = chosen.rival === target ? NONE : chosen.rival;
    let found = await run(pixels, target, rival);
    if (chosen.target === PREDICTED && argmax(found.logits) !== target) {
      target = argmax(found.logits);
      rival = chosen.rival === target ? NONE : chosen.rival;
      found = await run(pixels, target, rival);
    }
    live.last = { version, pixels, target, rival, ...found };
  }
  const { pixels, logits, target, rival, maps } = live.last;
  if (live.ended?.changes <= changes) {
    const { at } = live.ended;
    live.ended = null;
    requestAnimationFrame(() => tell(performance.now() - at));
  }
  const classes = [...logits.keys()];
  return { pixels, logits, classes, target, rival, map: maps[chosen.stream], scores: {} };
}

function tell(milliseconds) {
  find("state").textContent = `explained in ${milliseconds.toFixed(0)} ms`;
  document.body.dataset.milliseconds = milliseconds;
}

// The canvas at the network's size: means of squares of pixels.
function readCanvas() {
  const context = find("input").getContext("2d");
  const large = toLargePlanes(context.getImageData(0, 0, width * zoom, height * zoom).data);
  const pixels = average(large);
  const centred = channels === 1 && find("centre").checked;
  return centred ? centreDigit(pixels) : pixels;
}

function toLargePlanes(rgba) {
  const size = height * width * zoom * zoom;
  return Array.from({ length: channels }, (_, channel) =>
    Float32Array.from({ length: size }, (_, pixel) => rgba[4 * pixel + channel] / 255),
  );
}

function average(planes) {
  const pixels = new Float32Array(channels * height * width);
  planes.forEach((plane, channel) => {
    for (let row = 0; row < height * zoom; row++) {
      const start = channel * height * width + Math.floor(row / zoom) * width;
      for (let column = 0; column < width * zoom; column++) {
        pixels[start + Math.floor(column / zoom)] += plane[row * width * zoom + column];
      }
    }
  });
  return pixels.map((sum) => sum / (zoom * zoom));
}

// As digits of MNIST: scaled to 20 of 28 pixels, its centre of mass in the middle.
function centreDigit(pixels) {
  const box = { left: width, right: -1, top: height, bottom: -1 };
  let mass = 0;
  let [sumX, sumY] = [0, 0];
  pixels.forEach((value, index) => {
    const [x, y] = [index % width, Math.floor(index / width)];
    mass += value;
    sumX += value * (x + 0.5);
    sumY += value * (y + 0.5);
    if (value < 0.2) return;
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y);
  });
  if (box.right < 0) return pixels;
  const longest = Math.max(box.right - box.left, box.bottom - box.top) + 1;
  const scale = (DIGIT * Math.min(width, height)) / longest;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.translate(width / 2 - (scale * sumX) / mass, height / 2 - (scale * sumY) / mass);
  context.drawImage(find("input"), 0, 0, width * scale, height * scale);
  return toPlanes(context.getImageData(0, 0, width, height).data);
}

// The canvas has changed; what ends a change has its time told.
function redraw(ended = false) {
  live.changes += 1;
  if (ended) live.ended = { at: performance.now(), changes: live.changes };
  use(drawn, chosen.image);
  refresh();
}

function clearCanvas() {
  const context = find("input").getContext("2d");
  context.fillStyle = "black";
  context.fillRect(0, 0, width * zoom, height * zoom);
  find("centre").checked = channels === 1;
  redraw();
}

// Put a picture on the canvas: as large as covers it, cropped to the centre.
async function openPicture(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    find("state").textContent = `${file.name}: not a picture that this browser reads`;
    return;
  }
  const small = new OffscreenCanvas(width, height);
  const context = small.getContext("2d", { willReadFrequently: true });
  const scale = Math.max(width / picture.width, height / picture.height);
  const [wide, high] = [picture.width * scale, picture.height * scale];
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (width - wide) / 2, (height - high) / 2, wide, high);
  const planes = toPlanes(context.getImageData(0, 0, width, height).data);
  paintInput(find("invert").checked ? planes.map((value) => 1 - value) : planes);
  find("centre").checked = false;
  redraw(true);
}

function listenPen(canvas) {
  const context = canvas.getContext("2d");
  let from = null;
  const place = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((clientX - box.x) / box.width) * width * zoom,
      ((clientY - box.y) / box.height) * height * zoom,
    ];
  };
  const draw = (event) => {
    const to = place(event);
    Object.assign(context, { lineCap: "round", strokeStyle: "white" });
    context.lineWidth = ((PEN * Math.min(width, height)) / 28) * zoom;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.01, to[1]); // a line without length would not be drawn
    context.stroke();
    from = to;
    redraw();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = place(event);
    draw(event);
  });
  canvas.addEventListener("pointermove", (event) => from && draw(event));
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (!from) return;
      from = null;
      redraw(true);
    });
  }
}

function listenLive() {
  const canvas = find("input");
  canvas.classList.add("pen");
  find("centring").hidden = channels !== 1;
  listenPen(canvas);
  find("clear").addEventListener("click", clearCanvas);
  find("centre").addEventListener("input", () => redraw());
  find("file").addEventListener("change", ({ target }) => {
    if (target.files.length) openPicture(target.files[0]);
    target.value = "";
  });
  find("invert").addEventListener("input", () => {
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "difference";
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "source-over";
    redraw();
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    canvas.addEventListener(name, (event) => {
      event.preventDefault();
      canvas.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) openPicture(event.dataTransfer.files[0]);
    });
  }
}
