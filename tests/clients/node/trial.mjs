// The official client for Node, through one scenario after the other. Reads a JSON list of
// scenarios from standard input, writes a JSON list of what came of each.
//
// A scenario: {url, token?, user?, pass?, seed?, ca?, cert?, key?, websocket?}. Its result is
// {error} when the client was not let in, else what the client saw.

import { readFileSync } from "node:fs";
import { connect } from "@nats-io/transport-node";
import { headers, nkeyAuthenticator, wsconnect } from "@nats-io/nats-core";
import WebSocket from "ws";

const text = new TextDecoder();

function optionsOf(scenario) {
  const options = { servers: scenario.url, reconnect: false, timeout: 10000 };
  for (const name of ["token", "user", "pass"]) {
    if (scenario[name]) options[name] = scenario[name];
  }
  if (scenario.seed) {
    options.authenticator = nkeyAuthenticator(new TextEncoder().encode(scenario.seed));
  }
  if (scenario.ca && !scenario.websocket) {
    options.tls = { caFile: scenario.ca };
    if (scenario.cert) {
      options.tls.certFile = scenario.cert;
      options.tls.keyFile = scenario.key;
    }
  }
  return options;
}

async function open(scenario) {
  if (!scenario.websocket) return connect(optionsOf(scenario));
  const ca = scenario.ca ? readFileSync(scenario.ca) : undefined;
  // What a browser has by itself.
  globalThis.WebSocket = class extends WebSocket {
    constructor(url) {
      super(url, { ca });
    }
  };
  return wsconnect(optionsOf(scenario));
}

async function use(client) {
  const seen = {};
  const echo = client.subscribe("echo", {
    callback: (_, message) => message.respond(message.data, { headers: message.headers }),
  });
  const answer = await client.request("echo", "hello", { timeout: 10000 });
  seen.answer = text.decode(answer.data);
  const large = await client.request("echo", new Uint8Array(200000), { timeout: 10000 });
  seen.large = large.data.length;
  const sent = headers();
  sent.append("Kind", "trial");
  const marked = await client.request("echo", "", { headers: sent, timeout: 10000 });
  seen.header = marked.headers.get("Kind");
  let worked = 0;
  for (let member = 0; member < 3; member++) {
    client.subscribe("work", { queue: "group", callback: () => worked++ });
  }
  for (let number = 0; number < 100; number++) client.publish("work", "x");
  await client.flush();
  while (worked < 100) await client.flush();
  seen.worked = worked;
  try {
    await client.request("nobody", "", { timeout: 10000 });
  } catch (error) {
    seen.nobody = (error.cause ?? error).name;
  }
  echo.unsubscribe();
  await client.drain();
  seen.closed = client.isClosed();
  return seen;
}

const results = [];
for (const scenario of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    results.push(await use(await open(scenario)));
  } catch (error) {
    results.push({ error: error.name, message: error.message });
  }
}
console.log(JSON.stringify(results));
process.exit(0);
