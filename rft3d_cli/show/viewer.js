// The page: what is shown and chosen, and how it is drawn.

const scene = JSON.parse(document.getElementById('scene').textContent);
const at = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const pictures = all('.thumb img');

const state = { frame: 0, home: 0, picked: null, over: null, question: null, view: null, moved: false };

// Where no pose is known, all boxes stand in the camera of one frame, `home`: the last shown frame that has an answer.
const firstAnswered = scene.answered.find((frame) => frame !== null);
if (firstAnswered !== undefined) state.frame = state.home = firstAnswered;

const cameraOf = (frame) => (scene.posed || frame === state.home ? scene.frames[frame].camera : null);
const frameLens = (frame) => (cameraOf(frame) ? { m: cameraOf(frame), k: scene.intrinsic } : null);
const inWorld = (box) => scene.posed || box.frame === state.home;
const asked = (box) => state.question === null || box.question === state.question;
const shownBoxes = () => scene.boxes.filter((box) => inWorld(box) && asked(box));
const boxesInFrame = () => (frameLens(state.frame) ? shownBoxes() : []);

/** What the view must hold: boxes near enough to be meant, and cameras. */
function content() {
  const eyes = scene.frames.filter((frame, k) => frame.frustum && cameraOf(k)).map((frame) => frame.frustum);
  const points = eyes.flat().concat(scene.path.flat());
  const near = (box) => points.some((p) => Math.hypot(...add(mean(box.corners), p, -1)) < 30);
  const boxes = scene.boxes.filter(inWorld).filter(near).flatMap((box) => box.corners);
  if (boxes.length) return points.concat(boxes);
  // Nothing but cameras: what they may see and the floor below give them a scale.
  return points.concat(eyes.flatMap(([eye, a, , c]) => [add(eye, between(a, c, 0.5).map((v, k) => v - eye[k]), 6),
    [eye[0], eye[1], scene.floor]]));
}

// --- The two canvases -------------------------------------------------------------------------------------------

const frameCanvas = at('frame');
const viewCanvas = at('view');

/** A canvas's pen in CSS pixels, as sharp as the screen; and its size. */
function penOf(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = Math.max(printing ? 2 : 1, window.devicePixelRatio || 1);
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const pen = canvas.getContext('2d');
  pen.setTransform(w / Math.max(1, width), 0, 0, h / Math.max(1, height), 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

const dark = window.matchMedia('(prefers-color-scheme: dark)');
let printing = false;
const colourOf = (box) => (dark.matches && !printing ? box.colour : box.ink);

function tone(name) {
  return window.getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const lookOf = (box, colour, width, rim) => ({
  colour,
  width,
  rim,
  picked: box === state.picked || box === state.over,
  pale: state.picked !== null && box !== state.picked && box !== state.over,
});

function tagOf(box, lens, colour) {
  const points = facesSeen(scene, lens, box).flatMap((face) => face.points);
  if (!points.length) return [];
  const depth = seen(lens, mean(box.corners))[2];
  const must = box === state.picked || box === state.over;
  return [{ text: box.tag, colour, bounds: around(points), depth, must }];
}

function scaledLens(lens, width, height) {
  // Pixel centres are whole numbers in a picture, while a canvas counts from its corner.
  const [sx, sy] = [width / scene.size[0], height / scene.size[1]];
  const [[a, b, c], [, d, e]] = lens.k;
  return { m: lens.m, k: [[a * sx, b * sx, (c + 0.5) * sx], [0, d * sy, (e + 0.5) * sy], [0, 0, 1]] };
}

function drawFrame() {
  const { pen, width, height } = penOf(frameCanvas);
  const picture = pictures[state.frame];
  if (picture.complete && picture.naturalWidth) pen.drawImage(picture, 0, 0, width, height);
  const lens = frameLens(state.frame) && scaledLens(frameLens(state.frame), width, height);
  const boxes = boxesInFrame();
  const line = Math.max(1.5, Math.min(width, height) / 200);
  drawAll(pen, boxes.flatMap((box) => boxStrokes(scene, lens, box, lookOf(box, box.colour, line, true))));
  drawTags(pen, boxes.flatMap((box) => tagOf(box, lens, box.colour)), width, height);
}

let grid = null;
function layGrid() {
  grid = floorGrid(content(), scene.floor);
  at('cell').textContent = `${Number(grid.cell.toPrecision(2))}\u00a0m`;
}
layGrid();

function drawView() {
  const { pen, width, height } = penOf(viewCanvas);
  if (!state.moved || !state.view) state.view = startView(width, height);
  const lens = orbitLens(state.view, width, height);
  drawGrid(pen, lens, grid, tone('--grid'));
  drawShadows(pen, lens, shownBoxes(), scene.floor, tone('--shadow'));
  const strokes = shownBoxes().flatMap((box) => boxStrokes(scene, lens, box, lookOf(box, colourOf(box), 1.75, false)));
  const tonePath = tone('--path');
  for (const piece of scene.path) {
    piece.slice(1).forEach((point, k) => {
      const line = lineSeen(lens, piece[k], point);
      if (line) strokes.push({ depth: line.depth, draw: () => stroke(pen, line.ends, tonePath, 1.5, 0.9) });
    });
  }
  const tags = shownBoxes().flatMap((box) => tagOf(box, lens, colourOf(box)));
  scene.frames.forEach((frame, k) => {
    if (!frame.frustum || !cameraOf(k)) return;
    const current = k === state.frame;
    strokes.push(...cameraStrokes(lens, frame.frustum, { colour: tone(current ? '--camera' : '--path'), current }));
    const shape = current && polygonSeen(lens, frame.frustum.slice(1));
    if (shape) tags.push({ text: frame.name, colour: tone('--camera'), bounds: around(shape.points), depth: 0 });
  });
  drawAll(pen, strokes);
  const [halo, ink] = [tone('--space'), tone('--text')];
  drawAxes(pen, state.view, scene.axes, height, halo);
  drawScale(pen, state.view, width, height, ink, halo);
  drawTags(pen, tags, width, height, [[0, height - 88, 88, height], [width - 170, height - 44, width, height]]);
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  window.requestAnimationFrame(drawNow);
}

function drawNow() {
  waiting = false;
  drawFrame();
  drawView();
}

// --- The view that turns ----------------------------------------------------------------------------------------

function startView(width, height) {
  return fitted({ azimuth: scene.azimuth, elevation: 0.55 }, content(), width, height);
}

const LOOKS = {
  top: () => fitView({ azimuth: scene.azimuth + 0.6, elevation: Math.PI / 2 }),
  side: () => fitView({ azimuth: scene.azimuth + 0.6 - Math.PI / 2, elevation: 0 }),
  camera: lookAsCamera,
  reset: () => {
    state.moved = false;
    draw();
  },
  in: () => zoom(1 / 1.25),
  out: () => zoom(1.25),
};

function fitView(angles) {
  const { width, height } = viewCanvas.getBoundingClientRect();
  change(fitted(angles, content(), width, height));
}

/** Through the current camera, from so far behind that its whole picture is in sight. */
function lookAsCamera() {
  const shape = scene.frames[state.frame].frustum;
  if (!shape || !cameraOf(state.frame)) return;
  const ahead = add(mean(shape.slice(1)), shape[0], -1);
  const long = Math.hypot(...ahead);
  const way = ahead.map((v) => v / long);
  const angles = { azimuth: Math.atan2(-way[1], -way[0]), elevation: Math.asin(Math.max(-1, Math.min(1, -way[2]))) };
  const { width, height } = viewCanvas.getBoundingClientRect();
  const back = fitted(angles, shape.slice(1), width, height);
  const behind = Math.max(0, dot(add(shape[0], back.target, -1), orbitAxes(angles).back));
  const away = Math.max(back.distance, behind);
  change({ ...angles, target: add(back.target, way, 2), distance: away + 2 });
}

function change(part) {
  state.view = { ...state.view, ...part };
  state.view.elevation = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, state.view.elevation));
  state.moved = true;
  draw();
}

function rotate(dx, dy) {
  change({ azimuth: state.view.azimuth - dx * 0.008, elevation: state.view.elevation + dy * 0.008 });
}

function zoom(factor) {
  change({ distance: Math.max(0.2, Math.min(1e5, state.view.distance * factor)) });
}

function pan(dx, dy) {
  const { width, height } = viewCanvas.getBoundingClientRect();
  const perPixel = state.view.distance / ((FOCAL * Math.min(width, height)) / 2);
  const { right, up } = orbitAxes(state.view);
  change({ target: add(add(state.view.target, right, -dx * perPixel), up, dy * perPixel) });
}

// --- What is chosen ---------------------------------------------------------------------------------------------

function show(frame) {
  state.frame = Math.max(0, Math.min(scene.frames.length - 1, frame));
  if (!scene.posed && scene.answered.includes(state.frame) && state.home !== state.frame) {
    state.home = state.frame;
    layGrid();
  }
  tell();
}

function pick(box) {
  state.picked = box === state.picked ? null : box;
  if (state.picked && state.question !== null) state.question = state.picked.question;
  if (state.picked && !inSight(state.picked)) show(state.picked.frame);
  at('spoken').textContent = state.picked ? `${state.picked.name}, ${state.picked.facts}` : '';
  tell();
}

function inSight(box) {
  const lens = boxesInFrame().includes(box) && frameLens(state.frame);
  const points = lens ? facesSeen(scene, lens, box).flatMap((face) => face.points) : [];
  const [left, top, right, bottom] = around(points);
  return points.length > 0 && right > 0 && bottom > 0 && left < scene.size[0] && top < scene.size[1];
}

function choose(question) {
  state.question = question === state.question ? null : question;
  if (state.picked && !asked(state.picked)) state.picked = null;
  const frame = state.question === null ? null : scene.answered[state.question];
  if (frame !== null) show(frame);
  tell();
}

/** Says to the page's other parts what is shown and chosen. */
function tell() {
  const frame = scene.frames[state.frame];
  at('when').textContent = `${frame.name}, ${frame.time}`;
  at('step').value = state.frame;
  at('step').setAttribute('aria-valuetext', `${frame.name}, ${frame.time}`);
  const count = boxesInFrame().filter(inSight).length;
  const what = count === 1 ? '1 box' : `${count} boxes`;
  frameCanvas.setAttribute('aria-label', `${frame.name}, ${frame.time}, with ${what}`);
  all('.thumb').forEach((thumb, k) => thumb.setAttribute('aria-current', k === state.frame));
  const thumb = all('.thumb')[state.frame];
  const strip = thumb.parentElement;
  const [from, to] = [strip.scrollLeft, strip.scrollLeft + strip.clientWidth];
  if (thumb.offsetLeft < from || thumb.offsetLeft + thumb.offsetWidth > to) {
    strip.scrollLeft = thumb.offsetLeft - (strip.clientWidth - thumb.offsetWidth) / 2;
  }
  all('.box').forEach((row, k) => {
    row.setAttribute('aria-pressed', scene.boxes[k] === state.picked);
    row.classList.toggle('over', scene.boxes[k] === state.over);
  });
  all('.ask').forEach((button, k) => button.setAttribute('aria-pressed', state.question === k));
  all('.card').forEach((card, k) => card.classList.toggle('off', state.question !== null && state.question !== k));
  if (at('all')) at('all').setAttribute('aria-pressed', state.question === null);
  draw();
}
