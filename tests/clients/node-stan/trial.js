// The Node client of NATS Streaming, unchanged, through one scenario:
// node trial.js SCENARIO URL CLUSTER NAMES.
//
// What the client saw goes to standard output, a JSON object a line, without anything that differs
// from run to run. A line {"ask": ...} is a wish to whoever started the program, which is fulfilled
// once a line comes back on standard input. NAMES is a prefix of client ids and channels.
'use strict'

const { fork } = require('child_process')
const { once } = require('events')
const readline = require('readline')
const stan = require('node-nats-streaming')

const [, , scenario, url, cluster, names] = process.argv
const PATIENCE_MS = 20_000
const MINUTE_MS = 60_000

const write = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const see = (step, saw) => write({ saw, step })
const textOf = (error) => (error ? String(error.message || error) : '')
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

let input
async function ask (what) {
  input = input || readline.createInterface({ input: process.stdin })
  write({ ask: what })
  await once(input, 'line')
}

function patiently (what, promise) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

// Resolves with a client, or with the text of the error that came instead.
function tryConnect (id, options = {}) {
  const client = stan.connect(cluster, names + id, {
    url, connectTimeout: PATIENCE_MS, ackTimeout: PATIENCE_MS, reconnectTimeWait: 20, ...options
  })
  return patiently('a connection', new Promise((resolve) => {
    client.once('connect', () => resolve(client))
    client.on('error', (error) => resolve(textOf(error)))
  }))
}

async function connect (id, options) {
  const client = await tryConnect(id, options)
  if (typeof client === 'string') throw new Error(client)
  return client
}

async function close (client) {
  const closed = once(client, 'close')
  client.close()
  await patiently('a close', closed)
}

// Resolves with the text of the error in the acknowledgement.
const store = (client, channel, body) => patiently('an acknowledgement', new Promise((resolve) => {
  client.publish(names + channel, body, (error) => resolve(textOf(error)))
}))

async function publish (client, channel, first, last) {
  for (let number = first; number <= last; number++) {
    const error = await store(client, channel, String(number))
    if (error) throw new Error(error)
  }
}

const shown = (message) => message.isRedelivered()
  ? `${message.getSequence()} again ${message.getRedeliveryCount()}`
  : String(message.getSequence())

// What a subscription got.
class Catcher {
  constructor (client, channel, group, options) {
    this.messages = []
    this.wake = () => {}
    this.subscription = client.subscribe(names + channel, group, options)
    this.subscription.on('message', (message) => {
      this.messages.push(message)
      this.wake()
    })
  }

  async messagesOf (count) {
    const enough = (async () => {
      while (this.messages.length < count) {
        await new Promise((resolve) => { this.wake = resolve })
      }
    })()
    await patiently(`${count} messages`, enough)
    return this.messages.splice(0, count)
  }

  async take (count) {
    return (await this.messagesOf(count)).map(shown)
  }

  rest () {
    return this.messages.splice(0).map(shown)
  }

  end (how) {
    const done = patiently(how, new Promise((resolve) => {
      this.subscription.once({ close: 'closed', unsubscribe: 'unsubscribed' }[how], () => resolve(''))
      this.subscription.once('error', (error) => resolve(textOf(error)))
    }))
    this.subscription[how]()
    return done
  }
}

function trySubscribe (client, channel, group, options) {
  const caught = new Catcher(client, channel, group, options)
  return patiently('a subscription', new Promise((resolve) => {
    caught.subscription.once('ready', () => resolve(caught))
    caught.subscription.once('error', (error) => resolve(textOf(error)))
  }))
}

async function subscribe (client, channel, group, options) {
  const caught = await trySubscribe(client, channel, group, options)
  if (typeof caught === 'string') throw new Error(caught)
  return caught
}

const options = (client) => client.subscriptionOptions()
const all = (client) => options(client).setDeliverAllAvailable()
const manual = (client, inFlight = 1000) => all(client).setManualAckMode(true)
  .setAckWait(MINUTE_MS).setMaxInFlight(inFlight)
const durable = (client, inFlight) => manual(client, inFlight).setDurableName('d')

// Returns when all that the server had to deliver of a channel has been handed over: the answer to
// an unsubscribe comes after every publish and every ack that were sent before it.
async function settle (client, channel) {
  const caught = await subscribe(client, channel, '', options(client).setStartWithLastReceived())
  await caught.take(1)
  await caught.end('unsubscribe')
}

const scenarios = {
  async 'start-positions' () {
    const client = await connect('c')
    await publish(client, 'x', 1, 3)
    await pause(300)
    const between = new Date()
    await pause(300)
    await publish(client, 'x', 4, 5)
    const starts = {
      'new only': options(client),
      'last received': options(client).setStartWithLastReceived(),
      first: all(client),
      'sequence 3': options(client).setStartAtSequence(3),
      'sequence 99': options(client).setStartAtSequence(99),
      'an hour ago': options(client).setStartAtTimeDelta(3_600_000),
      'between 3 and 4': options(client).setStartTime(between)
    }
    const caught = {}
    for (const [name, each] of Object.entries(starts)) {
      caught[name] = await subscribe(client, 'x', '', each)
    }
    await publish(client, 'x', 6, 6)
    await settle(client, 'x')
    for (const name of Object.keys(starts)) see(name, caught[name].rest())
    await close(client)
  },

  async 'max-in-flight' () {
    const client = await connect('c')
    await publish(client, 'x', 1, 10)
    const caught = await subscribe(client, 'x', '', manual(client, 3))
    const held = await caught.messagesOf(3)
    await settle(client, 'x')
    see('stalled', caught.rest())
    held[1].ack()
    see('one ack', await caught.take(1))
    await settle(client, 'x')
    see('stalled again', caught.rest())
    held[0].ack()
    held[2].ack()
    see('two acks', await caught.take(2))
    await close(client)
  },

  async redelivery () {
    const client = await connect('c')
    await publish(client, 'x', 1, 2)
    const caught = await subscribe(client, 'x', '', manual(client).setAckWait(1000))
    see('first round', await caught.take(2))
    const [one, two] = await caught.messagesOf(2)
    see('second round', [shown(one), shown(two)])
    one.ack()
    see('third round', await caught.take(1))
    see('payload', two.getData())
    await close(client)
  },

  async 'refused-subscriptions' () {
    const client = await connect('c')
    const attempt = async (step, channel, group, each) => {
      const caught = await trySubscribe(client, channel, group, each)
      see(step, typeof caught === 'string' ? caught : '')
      return caught
    }
    await attempt('max in flight', 'x', '', options(client).setMaxInFlight(0))
    await attempt('wildcard', 'x.*', '', options(client))
    await attempt('slash', 'x/y', '', options(client))
    await attempt('colon', 'x', 'group', options(client).setDurableName('a:b'))
    const caught = await attempt('durable', 'x', '', durable(client))
    await attempt('durable twice', 'x', '', durable(client))
    see('unsubscribed', await caught.end('unsubscribe'))
    await close(client)
  },

  async payloads () {
    const client = await connect('c')
    const caught = await subscribe(client, 'x', '', options(client))
    for (const size of [0, 1, 127, 128, 16_384, 70_000, 1_000_000]) {
      const body = Buffer.alloc(size, '0123456\0\xff\r\n', 'latin1')
      const error = await store(client, 'x', body)
      const [message] = await caught.messagesOf(1)
      see(String(size), {
        error,
        same: Buffer.compare(message.getRawData(), body) === 0,
        channel: message.getSubject() === names + 'x',
        sequence: message.getSequence()
      })
    }
    await close(client)
  },

  async 'durable-resumes' () {
    let client = await connect('c')
    await publish(client, 'x', 1, 6)
    let caught = await subscribe(client, 'x', '', durable(client, 4))
    const held = await caught.messagesOf(4)
    held[0].ack()
    held[2].ack()
    see('first', await caught.take(2))
    await caught.end('close')
    await publish(client, 'x', 7, 7)
    caught = await subscribe(client, 'x', '', durable(client, 5))
    see('after close', await caught.take(5))
    await close(client)
    client = await connect('c')
    caught = await subscribe(client, 'x', '', durable(client))
    see('after a new connection', await caught.take(5))
    await caught.end('unsubscribe')
    caught = await subscribe(client, 'x', '', durable(client))
    see('after unsubscribe', await caught.take(7))
    await close(client)
  },

  async 'durable-over-stop' () {
    const client = await connect('c', { stanMaxPingOut: 100 })
    await publish(client, 'x', 1, 3)
    let caught = await subscribe(client, 'x', '', durable(client))
    for (const message of await caught.messagesOf(3)) message.ack()
    await publish(client, 'x', 4, 6)
    see('before', await caught.take(3))
    await settle(client, 'x')
    const back = once(client, 'reconnect')
    await ask('stop and start')
    await patiently('the connection', back)
    await publish(client, 'x', 7, 7)
    await caught.end('close')
    caught = await subscribe(client, 'x', '', durable(client))
    see('resumed', (await caught.messagesOf(4)).map((message) => message.getSequence()))
    await close(client)
  },

  async 'unsubscribe-or-close' () {
    const client = await connect('c')
    await publish(client, 'x', 1, 2)
    for (const how of ['close', 'unsubscribe']) {
      for (const kind of ['plain', 'durable']) {
        const each = () => kind === 'durable' ? all(client).setDurableName(how) : all(client)
        let caught = await subscribe(client, 'x', '', each())
        await settle(client, 'x')
        const seen = caught.rest()
        await caught.end(how)
        caught = await subscribe(client, 'x', '', each())
        await settle(client, 'x')
        see(`${kind} after ${how}`, [seen, caught.rest()])
        await caught.end('unsubscribe')
      }
    }
    await close(client)
  },

  async 'queue-group' () {
    const client = await connect('c')
    const members = []
    for (let number = 0; number < 3; number++) {
      members.push(await subscribe(client, 'x', 'group', manual(client, 4)))
    }
    await publish(client, 'x', 1, 15)
    await settle(client, 'x')
    for (const [index, each] of members.entries()) see(`member ${index}`, each.rest())
    const other = await connect('other')
    see('another member', await (await subscribe(other, 'x', 'group', manual(other))).take(3))
    await close(other)
    await close(client)
  },

  async 'queue-member-killed' () {
    const client = await connect('c')
    const each = options(client).setManualAckMode(true).setAckWait(1000).setMaxInFlight(100)
    const stays = await subscribe(client, 'x', 'group', each)
    const other = fork(__filename, ['member', url, cluster, names], { silent: true })
    const lines = readline.createInterface({ input: other.stdout })[Symbol.asyncIterator]()
    await lines.next()
    await publish(client, 'x', 1, 10)
    await lines.next()
    other.kill('SIGKILL')
    await once(other, 'exit')
    const done = new Set()
    while (done.size < 10) {
      const [message] = await stays.messagesOf(1)
      done.add(message.getSequence())
      message.ack()
    }
    see('in the end', [...done].sort((a, b) => a - b))
    await close(client)
  },

  // Joins the group, says so, and holds what it gets until it is killed.
  async member () {
    const client = await connect('member')
    const caught = await subscribe(client, 'x', 'group', manual(client, 10))
    see('joined', '')
    await caught.messagesOf(5)
    see('holds', 5)
    await new Promise(() => {})
  },

  async 'durable-queue-group' () {
    const client = await connect('c')
    const other = await connect('other')
    await publish(client, 'x', 1, 4)
    const first = await subscribe(client, 'x', 'group', durable(client))
    const held = await first.messagesOf(4)
    held[0].ack()
    held[1].ack()
    await first.end('close')
    const second = await subscribe(other, 'x', 'group', durable(other))
    see('another client takes over', await second.take(2))
    await second.end('unsubscribe')
    const third = await subscribe(client, 'x', 'group', durable(client))
    see('from the beginning', await third.take(4))
    await close(client)
    await close(other)
  },

  async 'duplicate-client' () {
    const client = await connect('c')
    see('while it lives', await tryConnect('c'))
    await close(client)
    const again = await connect('c')
    await publish(again, 'x', 1, 1)
    await close(again)
  },

  async 'client-replaced' () {
    const first = await connect('c')
    await publish(first, 'x', 1, 2)
    const caught = await subscribe(first, 'x', '', durable(first))
    await caught.messagesOf(2)
    first.nc.close() // without a word to the streaming server
    const client = await connect('c')
    see('its durable is free', await (await subscribe(client, 'x', '', durable(client))).take(2))
    await close(client)
  },

  async 'refused-publishes' () {
    const client = await connect('c')
    for (const channel of ['x.*', 'x.>', 'x/y']) see(channel, await store(client, channel, ''))
    see('good', await store(client, 'x', ''))
    await close(client)
    see('after close', await store(client, 'x', ''))
  },

  async 'connection-lost' () {
    const client = await connect('c', { stanPingInterval: 1000, stanMaxPingOut: 2 })
    await publish(client, 'x', 1, 1)
    const lost = once(client, 'connection_lost')
    await ask('stop')
    see('lost', textOf((await patiently('the loss', lost))[0]))
    await ask('start')
    const again = await connect('c')
    see('what was stored', await (await subscribe(again, 'x', '', all(again))).take(1))
    await close(again)
  },

  async 'forgotten-by-restart' () {
    const client = await connect('c', { stanPingInterval: 1000, stanMaxPingOut: 50 })
    await publish(client, 'x', 1, 1)
    const lost = once(client, 'connection_lost')
    await ask('stop and start')
    see('lost', textOf((await patiently('the loss', lost))[0]))
    const again = await connect('c')
    const caught = await subscribe(again, 'x', '', all(again))
    await publish(again, 'x', 1, 1)
    see('a store in memory begins anew', await caught.take(1))
    await close(again)
  },

  async 'close-after-publish' () {
    const count = 2000
    const first = await connect('c')
    for (let number = 0; number < count; number++) {
      first.publish(names + 'x', String(number), () => {})
    }
    await close(first) // all that was sent before is stored
    const client = await connect('c')
    const caught = await subscribe(client, 'x', '', all(client))
    const messages = await caught.messagesOf(count)
    see('out of place', messages.filter((message, number) =>
      message.getData() !== String(number) || message.getSequence() !== number + 1).length)
    await settle(client, 'x')
    see('too many', caught.rest())
    await close(client)
  },

  async 'thousands-in-flight' () {
    const count = 10_000
    const client = await connect('c')
    const caught = await subscribe(client, 'x', '', options(client).setMaxInFlight(count))
    const acknowledged = []
    let failed = 0
    const sent = []
    const answered = new Promise((resolve) => {
      for (let number = 0; number < count; number++) {
        sent.push(client.publish(names + 'x', String(number), (error, guid) => {
          if (error) failed++
          acknowledged.push(guid)
          if (acknowledged.length === count) resolve()
        }))
      }
    })
    await patiently('all acknowledgements', answered)
    const messages = await caught.messagesOf(count)
    see('failed', failed)
    see('acknowledged out of order', acknowledged.filter((guid, at) => guid !== sent[at]).length)
    see('delivered out of place', messages.filter((message, number) =>
      message.getData() !== String(number) || message.getSequence() !== number + 1).length)
    await close(client)
  }
}

scenarios[scenario]().then(() => process.exit(0), (error) => {
  console.error(error)
  process.exit(1)
})
