// What hands do: pointers, keys and buttons; then the first picture.

/** The box under a point: of those that lie there, the one that covers least. */
function boxUnder(lens, boxes, point) {
  const hits = boxes.flatMap((box) => {
    const faces = facesSeen(scene, lens, box).filter((face) => face.points.length);
    const covered = faces.reduce((sum, face) => sum + area(face.points), 0);
    return faces.some((face) => inside(point, face.points)) ? [{ box, covered }] : [];
  });
  return hits.sort((a, b) => a.covered - b.covered)[0]?.box ?? null;
}

function under(canvas, event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const point = [event.clientX - left, event.clientY - top];
  if (canvas === viewCanvas) return boxUnder(orbitLens(state.view, width, height), shownBoxes(), point);
  const lens = frameLens(state.frame);
  return lens ? boxUnder(scaledLens(lens, width, height), boxesInFrame(), point) : null;
}

/** The frame whose camera's eye is at a point of the view, or null. */
function cameraUnder(event) {
  const { left, top, width, height } = viewCanvas.getBoundingClientRect();
  const lens = orbitLens(state.view, width, height);
  const near = scene.frames.flatMap((frame, k) => {
    const eye = frame.frustum && cameraOf(k) ? seen(lens, frame.frustum[0]) : [0, 0, 0];
    if (eye[2] <= NEAR) return [];
    const [x, y] = pixel(lens, eye);
    const away = Math.hypot(x - event.clientX + left, y - event.clientY + top);
    return away < 12 ? [{ k, away }] : [];
  });
  return near.sort((a, b) => a.away - b.away)[0]?.k ?? null;
}

function point(box) {
  if (box === state.over) return;
  state.over = box;
  viewCanvas.classList.toggle('over', box !== null);
  tell();
}

const held = new Map(); // pointers on the view, by number
let travelled = 0;

viewCanvas.addEventListener('pointerdown', (event) => {
  viewCanvas.setPointerCapture(event.pointerId);
  viewCanvas.classList.add('held');
  if (!held.size) travelled = 0;
  held.set(event.pointerId, [event.clientX, event.clientY]);
});

viewCanvas.addEventListener('pointermove', (event) => {
  const before = held.get(event.pointerId);
  if (!before) {
    if (event.pointerType === 'mouse') point(under(viewCanvas, event));
    return;
  }
  const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
  travelled += Math.abs(dx) + Math.abs(dy);
  const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
  held.set(event.pointerId, [event.clientX, event.clientY]);
  if (travelled < 4) return;
  if (other) {
    // Two fingers: their distance zooms, their middle moves.
    const apart = (p) => Math.max(20, Math.hypot(p[0] - other[0], p[1] - other[1]));
    zoom(apart(before) / apart([event.clientX, event.clientY]));
    pan(dx / 2, dy / 2);
  } else if (event.buttons & 6 || event.shiftKey) pan(dx, dy);
  else rotate(dx, dy);
});

for (const kind of ['pointerup', 'pointercancel']) {
  viewCanvas.addEventListener(kind, (event) => {
    if (!held.delete(event.pointerId) || held.size) return;
    viewCanvas.classList.remove('held');
    if (kind === 'pointercancel' || travelled >= 4 || event.button !== 0) return;
    const box = under(viewCanvas, event);
    const camera = cameraUnder(event);
    if (camera !== null) show(camera);
    else if (box || state.picked) pick(box || state.picked);
  });
}
viewCanvas.addEventListener('pointerleave', () => point(null));
viewCanvas.addEventListener('contextmenu', (event) => event.preventDefault());
viewCanvas.addEventListener('wheel', (event) => {
  event.preventDefault();
  const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
  zoom(Math.exp(Math.max(-300, Math.min(300, pixels)) * 0.0015));
}, { passive: false });

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const LETTERS = { t: 'top', s: 'side', c: 'camera', r: 'reset', '+': 'in', '=': 'in', '-': 'out', _: 'out' };

viewCanvas.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  const look = LETTERS[event.key.toLowerCase()];
  if (arrow && event.shiftKey) pan(arrow[0] * 24, arrow[1] * 24);
  else if (arrow) rotate(arrow[0] * 12, arrow[1] * 12);
  else if (look) LOOKS[look]();
  else return;
  event.preventDefault();
});

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === ',' || event.key === '.') show(state.frame + (event.key === '.' ? 1 : -1));
  if (event.key === 'Escape' && state.picked) pick(state.picked);
});

frameCanvas.addEventListener('keydown', (event) => {
  if (!['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
  show(state.frame + (event.key === 'ArrowRight' ? 1 : -1));
  event.preventDefault();
});
frameCanvas.addEventListener('click', (event) => {
  const box = under(frameCanvas, event);
  if (box || state.picked) pick(box || state.picked);
});
frameCanvas.addEventListener('pointermove', (event) => {
  if (event.pointerType === 'mouse') point(under(frameCanvas, event));
});
frameCanvas.addEventListener('pointerleave', () => point(null));

let playing = null;
function play(on) {
  window.clearInterval(playing);
  playing = on ? window.setInterval(() => show((state.frame + 1) % scene.frames.length), 500) : null;
  at('play').textContent = on ? '❚❚' : '▶';
  at('play').setAttribute('aria-label', on ? 'pause' : 'play');
  at('play').setAttribute('aria-pressed', on);
}

at('play').addEventListener('click', () => play(playing === null));
at('prev').addEventListener('click', () => show(state.frame - 1));
at('next').addEventListener('click', () => show(state.frame + 1));
at('step').addEventListener('input', (event) => show(Number(event.target.value)));
all('[data-look]').forEach((button) => button.addEventListener('click', () => LOOKS[button.dataset.look]()));
all('.thumb').forEach((thumb, k) => {
  thumb.classList.toggle('answered', scene.answered.includes(k));
  thumb.addEventListener('click', () => show(k));
});
all('.box').forEach((row, k) => {
  row.addEventListener('click', () => pick(scene.boxes[k]));
  row.addEventListener('pointerenter', () => point(scene.boxes[k]));
  row.addEventListener('pointerleave', () => point(null));
});
all('.ask').forEach((button, k) => button.addEventListener('click', () => choose(k)));
at('all')?.addEventListener('click', () => state.question !== null && choose(state.question));

pictures.forEach((picture) => picture.addEventListener('load', draw));
dark.addEventListener('change', draw);
window.addEventListener('beforeprint', () => {
  printing = true;
  drawNow();
});
window.addEventListener('afterprint', () => {
  printing = false;
  draw();
});
const sizes = new window.ResizeObserver(draw);
sizes.observe(frameCanvas);
sizes.observe(viewCanvas);
show(state.frame);
drawNow();

// For tests, and for whoever wants to turn the view by a script of their own.
window.rft3dViewer = Object.freeze({
  state: () => ({
    frame: state.frame,
    picked: state.picked ? scene.boxes.indexOf(state.picked) : null,
    question: state.question,
    posed: scene.posed,
    view: { ...state.view },
  }),
  // Of each box in the 3D view: its corners there in CSS pixels, and in the current frame in the picture's pixels.
  boxes: () => {
    const { width, height } = viewCanvas.getBoundingClientRect();
    const view = orbitLens(state.view, width, height);
    const frame = frameLens(state.frame);
    const flat = (lens) => (corner) => {
      const eye = seen(lens, corner);
      return eye[2] > NEAR ? pixel(lens, eye) : null;
    };
    return shownBoxes().map((box) => ({
      name: box.name,
      question: box.question,
      colour: colourOf(box),
      view: box.corners.map(flat(view)),
      frame: frame ? box.corners.map(flat(frame)) : null,
    }));
  },
  rotate: (dx, dy) => {
    rotate(dx, dy);
    drawNow();
  },
});
