// The official client in a browser's page: tries one scenario and posts what came of it.
// The scenario stands in the page's address, as JSON behind the #.

import { headers, wsconnect } from "@nats-io/nats-core";

async function use(scenario) {
  const client = await wsconnect({ reconnect: false, timeout: 10000, ...scenario });
  client.subscribe("echo", {
    callback: (_, message) => message.respond(message.data, { headers: message.headers }),
  });
  const sent = headers();
  sent.append("Kind", "trial");
  const answer = await client.request("echo", "hello", { headers: sent, timeout: 10000 });
  const large = await client.request("echo", new Uint8Array(200000), { timeout: 10000 });
  const seen = {
    answer: answer.string(),
    header: answer.headers.get("Kind"),
    large: large.data.length,
  };
  await client.drain();
  return seen;
}

let result;
try {
  result = await use(JSON.parse(decodeURIComponent(location.hash.slice(1))));
} catch (error) {
  result = { error: error.name };
}
await fetch("/result", { method: "POST", body: JSON.stringify(result) });
