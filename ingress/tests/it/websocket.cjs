// WebSocket with npm's ws on both sides of the gateway. `server` prints its port and sends back what it gets; `client PORT`
// prints a line for each thing that works.
const assert = require("node:assert");
const { once } = require("node:events");
const { WebSocket, WebSocketServer } = require("ws");

const MEBIBYTE = 1024 * 1024;

function serve() {
  const verifyClient = ({ req }) => req.url !== "/refused";
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", perMessageDeflate: true, verifyClient });
  server.on("connection", (socket) => {
    socket.on("message", (data, isBinary) => {
      if (data.toString("latin1") === "bye") socket.close(4321, "as you wish");
      else socket.send(data, { binary: isBinary });
    });
  });
  server.on("listening", () => console.log(server.address().port));
}

async function open(port, path, options) {
  const socket = new WebSocket(`ws://localhost:${port}${path}`, ["talk"], options);
  await once(socket, "open");
  return socket;
}

async function echo(socket, data) {
  socket.send(data);
  const [answer, isBinary] = await once(socket, "message");
  assert.strictEqual(isBinary, typeof data !== "string");
  assert.ok(Buffer.from(data).equals(answer));
}

async function ask(port) {
  const plain = await open(port, "/", { perMessageDeflate: false, family: 4 });
  assert.strictEqual(plain.protocol, "talk");
  await echo(plain, "text \u263a");
  console.log("text");
  await echo(plain, Buffer.alloc(MEBIBYTE, 7));
  console.log("binary");
  const compressed = await open(port, "/", { perMessageDeflate: true, family: 4 });
  assert.match(compressed.extensions, /permessage-deflate/);
  await echo(compressed, "again ".repeat(MEBIBYTE));
  console.log("compressed");
  plain.ping("are you there");
  const [pong] = await once(plain, "pong");
  assert.strictEqual(pong.toString(), "are you there");
  console.log("ping");
  plain.send("bye");
  const [code, reason] = await once(plain, "close");
  assert.deepStrictEqual([code, reason.toString()], [4321, "as you wish"]);
  console.log("close");
  compressed.terminate();
  const refused = new WebSocket(`ws://localhost:${port}/refused`, { family: 4 });
  const [, response] = await once(refused, "unexpected-response");
  assert.strictEqual(response.statusCode, 401);
  response.destroy();
  console.log("refused");
}

const [role, port] = process.argv.slice(2);
if (role === "server") serve();
else ask(port).then(() => process.exit(0));
