// What is drawn: far things first, so that near ones stand before them, and names last.

function stroke(pen, points, colour, width, alpha = 1) {
  pen.globalAlpha = alpha;
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  points.forEach(([x, y], at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
  pen.globalAlpha = 1;
}

function fill(pen, points, colour, alpha) {
  pen.globalAlpha = alpha;
  pen.fillStyle = colour;
  pen.beginPath();
  points.forEach(([x, y], at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.closePath();
  pen.fill();
  pen.globalAlpha = 1;
}

/** A box's faces as a lens sees them: pixels, depth, and whether each looks towards the camera. */
function facesSeen(scene, lens, box) {
  const eye = eyeOf(lens);
  const centre = mean(box.corners);
  return scene.faces.map((face) => {
    const points = face.map((corner) => box.corners[corner]);
    const middle = mean(points);
    const towards = dot(add(middle, centre, -1), add(eye, middle, -1)) > 0;
    return { ...(polygonSeen(lens, points) || { points: [], depth: 0 }), corners: face, towards };
  });
}

/**
 * The strokes of a box, each with its depth. Edges at the back are paler than those in front.
 *
 * look: colour, width, rim (a dark line beneath, for pictures), picked, pale.
 */
function boxStrokes(scene, lens, box, look) {
  const faces = facesSeen(scene, lens, box);
  const strength = look.pale ? 0.4 : 1;
  const out = [];
  for (const face of faces.filter((one) => one.points.length)) {
    const alpha = strength * (look.picked ? 0.26 : 0.13) * (face.towards ? 1 : 0.45);
    out.push({ depth: face.depth, draw: (pen) => fill(pen, face.points, look.colour, alpha) });
  }
  for (const [a, b] of scene.edges) {
    const line = lineSeen(lens, box.corners[a], box.corners[b]);
    if (!line) continue;
    const near = faces.some((face) => face.towards && face.corners.includes(a) && face.corners.includes(b));
    const alpha = strength * (near ? 1 : 0.45);
    const width = look.width * (near ? 1 : 0.75) * (look.picked ? 1.7 : 1);
    const draw = (pen) => {
      if (look.rim) stroke(pen, line.ends, '#000', width * 2, alpha * 0.5);
      stroke(pen, line.ends, look.colour, width, alpha);
    };
    out.push({ depth: line.depth - 1e-3, draw });
  }
  return out;
}

/**
 * The strokes of a camera's pyramid; the current one is filled and bold. Where it is looked through, only the current
 * one's picture is outlined.
 */
function cameraStrokes(lens, [eye, ...ground], { colour, current }) {
  const out = [];
  const through = Math.hypot(...add(eyeOf(lens), eye, -1)) < 2 * Math.hypot(...add(mean(ground), eye, -1));
  if (through && !current) return out;
  const width = current ? 2.25 : 1;
  const alpha = current ? 1 : 0.45;
  ground.forEach((corner, at) => {
    for (const [a, b] of [[eye, corner], [corner, ground[(at + 1) % 4]]].slice(through ? 1 : 0)) {
      const line = lineSeen(lens, a, b);
      if (line) out.push({ depth: line.depth, draw: (pen) => stroke(pen, line.ends, colour, width, alpha) });
    }
  });
  if (!current || through) return out;
  // A small roof over the picture's upper side says which way the camera is up.
  const [left, right, , below] = ground;
  const high = add(left, below, -1);
  const wide = Math.hypot(...add(left, right, -1));
  const rise = add(between(left, right, 0.5), high, 0.3 * Math.min(1, wide / Math.hypot(...high)));
  const roof = polygonSeen(lens, [between(left, right, 0.3), rise, between(left, right, 0.7)]);
  if (roof) out.push({ depth: roof.depth, draw: (pen) => fill(pen, roof.points, colour, alpha) });
  const picture = polygonSeen(lens, ground);
  if (picture) out.push({ depth: picture.depth, draw: (pen) => fill(pen, picture.points, colour, 0.16) });
  return out;
}

function drawAll(pen, strokes) {
  pen.lineJoin = 'round';
  pen.lineCap = 'round';
  strokes.sort((a, b) => b.depth - a.depth).forEach((one) => one.draw(pen));
}

/** The floor's grid: pieces of lines with their strength, which fades from the middle outwards. */
function floorGrid(points, floor) {
  const [left, low, right, high] = around(points);
  const reach = Math.min(Math.max(right - left, high - low, 2) / 2 + 1.5, 1e4);
  const step = Math.max(roundBelow(reach / 4), 0.1);
  const cell = step > 1 ? step : Math.min(1, step * 2);
  const count = Math.ceil(reach / cell) + 1;
  const [midX, midY] = [(left + right) / 2, (low + high) / 2].map((v) => Math.round(v / cell) * cell);
  const pieces = [];
  for (let i = -count; i <= count; i += 1) {
    for (let j = -count; j < count; j += 1) {
      const fade = 1 - Math.hypot(i, j + 0.5) / (count + 0.5);
      if (fade <= 0) continue;
      const strength = Math.min(1, Math.ceil(fade * 6) / 4);
      const [a, b, c] = [i, j, j + 1].map((n) => n * cell);
      pieces.push({ ends: [[midX + a, midY + b, floor], [midX + a, midY + c, floor]], strength });
      pieces.push({ ends: [[midX + b, midY + a, floor], [midX + c, midY + a, floor]], strength });
    }
  }
  return { pieces, cell };
}

function drawGrid(pen, lens, grid, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  for (const strength of new Set(grid.pieces.map((piece) => piece.strength))) {
    pen.globalAlpha = strength * 0.4;
    pen.beginPath();
    for (const piece of grid.pieces) {
      const line = piece.strength === strength && lineSeen(lens, ...piece.ends);
      if (line) {
        pen.moveTo(...line.ends[0]);
        pen.lineTo(...line.ends[1]);
      }
    }
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

/** What boxes cover of the floor, darkened a little: it shows where they stand. */
function drawShadows(pen, lens, boxes, floor, colour) {
  for (const box of boxes) {
    const shape = polygonSeen(lens, hull(box.corners).map(([x, y]) => [x, y, floor]));
    if (shape) fill(pen, shape.points, colour, 1);
  }
}

const MOST_TAGS = 14;

/**
 * Names beside what they name, nearest first, where they hide no other name. One that finds no room, or comes after
 * many, is left out, unless it must be there.
 *
 * tags: text, colour, bounds, depth, must.
 */
function drawTags(pen, tags, width, height, taken = []) {
  const size = 12;
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = 'middle';
  const tall = size + 8;
  for (const tag of [...tags].sort((a, b) => Boolean(b.must) - Boolean(a.must) || a.depth - b.depth)) {
    const [left, top, right, bottom] = tag.bounds;
    if (right < 0 || bottom < 0 || left > width || top > height) continue;
    let text = tag.text;
    while (text.length > 2 && pen.measureText(text).width > width - 20) text = `${text.slice(0, -2)}…`;
    const wide = pen.measureText(text).width + 12;
    const middle = (left + right - wide) / 2;
    const tries = [];
    for (const y of [top - tall - 3, bottom + 3, top + 4, top - 2 * tall - 5, bottom - tall - 4]) {
      for (const x of [middle, left, right - wide]) {
        tries.push([Math.min(Math.max(x, 2), width - wide - 2), Math.min(Math.max(y, 2), height - tall - 2)]);
      }
    }
    const free = tries.find(([x, y]) => taken.every((o) => x > o[2] || y > o[3] || x + wide < o[0] || y + tall < o[1]));
    if ((!free || taken.length >= MOST_TAGS) && !tag.must) continue;
    const [x, y] = free || tries[0];
    taken.push([x, y, x + wide, y + tall]);
    pen.fillStyle = '#16161ae6';
    pen.beginPath();
    pen.roundRect(x, y, wide, tall, 4);
    pen.fill();
    pen.fillStyle = tag.colour;
    pen.fillRect(x + 4, y + tall - 3, wide - 8, 2);
    pen.fillStyle = '#fff';
    pen.fillText(text, x + 6, y + tall / 2 - 0.5);
  }
}

/** The world's axes in the lower left corner. */
function drawAxes(pen, view, axes, height, halo) {
  const { right, up, back } = orbitAxes(view);
  const arms = axes.map((axis, at) => ({
    name: 'xyz'[at],
    colour: ['#d9483f', '#2f9e44', '#3f7fe0'][at],
    end: [dot(axis, right), -dot(axis, up)],
    back: dot(axis, back),
  }));
  const [x, y] = [44, height - 44];
  pen.font = '600 12px system-ui, sans-serif';
  pen.textBaseline = 'middle';
  pen.textAlign = 'center';
  pen.lineCap = 'round';
  for (const arm of arms.sort((a, b) => a.back - b.back)) {
    stroke(pen, [[x, y], [x + arm.end[0] * 24, y + arm.end[1] * 24]], arm.colour, 2.5);
    if (Math.hypot(...arm.end) > 0.2) label(pen, arm.name, x + arm.end[0] * 34, y + arm.end[1] * 34, arm.colour, halo);
  }
  pen.textAlign = 'left';
}

function label(pen, text, x, y, colour, halo) {
  pen.lineWidth = 3;
  pen.strokeStyle = halo;
  pen.strokeText(text, x, y);
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}

/** A bar of a round length, true at the view's target, in the lower right corner. */
function drawScale(pen, view, width, height, colour, halo) {
  const perMetre = (FOCAL * Math.min(width, height)) / 2 / view.distance;
  const metres = roundBelow(Math.min(140, width / 3) / perMetre);
  const long = metres * perMetre;
  const words = metres < 0.1 ? `${Number((metres * 100).toPrecision(1))} cm` : `${Number(metres.toPrecision(1))} m`;
  const [right, y] = [width - 16, height - 18];
  const bar = [[right - long, y - 5], [right - long, y], [right, y], [right, y - 5]];
  stroke(pen, bar, halo, 5);
  stroke(pen, bar, colour, 1.75);
  pen.font = '12px system-ui, sans-serif';
  pen.textBaseline = 'alphabetic';
  pen.textAlign = 'right';
  label(pen, words, right, y - 9, colour, halo);
  pen.textAlign = 'left';
}
