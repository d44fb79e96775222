// Scenarios of connections and of publishers.
package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"
)

func init() {
	scenarios["duplicate-client"] = duplicateClient
	scenarios["client-replaced"] = clientReplaced
	scenarios["refused-connections"] = refusedConnections
	scenarios["refused-publishes"] = refusedPublishes
	scenarios["too-many-channels"] = tooManyChannels
	scenarios["connection-lost"] = connectionLost
	scenarios["forgotten-by-restart"] = forgottenByRestart
	scenarios["close-after-publish"] = closeAfterPublish
	scenarios["close-after-ack"] = closeAfterAck
	scenarios["thousands-in-flight"] = thousandsInFlight
	scenarios["publish-over-restart"] = publishOverRestart
}

func duplicateClient(t *trial) {
	client := t.connect("c")
	_, err := t.tryConnect("c")
	t.see("while it lives", text(err))
	t.publish(client, "x", 1, 1)
	must(client.Close())
	client, err = t.tryConnect("c")
	t.see("after its close", text(err))
	must(client.Close())
	t.see("closed twice", text(client.Close()))
}

func clientReplaced(t *trial) {
	under := t.dial()
	client := t.connect("c", stan.NatsConn(under))
	t.publish(client, "x", 1, 3)
	t.subscribe(client, "x", "", manual()...).take(3)
	t.subscribe(client, "x", "", durable()...).take(3)
	under.Close() // without a word to the streaming server
	client, err := t.tryConnect("c")
	t.see("the dead one is replaced", text(err))
	t.see("its durable is free", t.subscribe(client, "x", "", durable()...).take(3))
	must(client.Close())
}

func refusedConnections(t *trial) {
	for _, id := range []string{"a.b", "a b", "a*", "ä"} {
		_, err := t.tryConnect(id)
		t.see(id, text(err))
	}
	_, err := stan.Connect("nobody", "c", stan.NatsURL(t.url), stan.ConnectWait(time.Second))
	t.see("wrong cluster", text(err))
}

func refusedPublishes(t *trial) {
	// Some of these are no NATS subjects: no server sees them, and nobody answers.
	client := t.connect("c", stan.PubAckWait(time.Second))
	channels := []string{"x.*", "x.>", "x/y", "x..y", ".x", "x.", "*"}
	answers := make([]chan string, len(channels))
	for index, channel := range channels {
		answer := make(chan string, 1)
		answers[index] = answer
		_, err := client.PublishAsync(channel, nil, func(_ string, err error) { answer <- text(err) })
		must(err)
	}
	for index, channel := range channels {
		t.see(channel, <-answers[index])
	}
	t.see("good", text(client.Publish(t.channel("x"), nil)))
	must(client.Close())
	t.see("after close", text(client.Publish(t.channel("x"), nil)))
}

func tooManyChannels(t *trial) {
	client := t.connect("c")
	for number := range 4 {
		t.see(fmt.Sprint("publish to ", number),
			text(client.Publish(t.channel(fmt.Sprint("x", number)), nil)))
	}
	_, err := t.catch(client, "y", "")
	t.see("subscribe", text(err))
	t.subscribe(client, "x1", "")
	_, err = t.catch(client, "x1", "")
	t.see("second subscription", text(err))
	must(client.Close())
}

func connectionLost(t *trial) {
	lost := make(chan string, 1)
	client := t.connect("c", stan.NatsConn(t.dial()), stan.Pings(1, 2),
		stan.SetConnectionLostHandler(func(_ stan.Conn, reason error) { lost <- reason.Error() }))
	t.publish(client, "x", 1, 1)
	t.ask("stop")
	t.see("lost", <-lost)
	t.see("publish", text(client.Publish(t.channel("x"), nil)))
	client.NatsConn().Close()
	t.ask("start")
	client = t.connect("c")
	t.see("what was stored", t.subscribe(client, "x", "", stan.DeliverAllAvailable()).take(1))
	must(client.Close())
}

func forgottenByRestart(t *trial) {
	lost := make(chan string, 1)
	client := t.connect("c", stan.NatsConn(t.dial()), stan.Pings(1, 50),
		stan.SetConnectionLostHandler(func(_ stan.Conn, reason error) { lost <- reason.Error() }))
	t.publish(client, "x", 1, 1)
	t.ask("stop and start")
	t.see("lost", <-lost)
	client.NatsConn().Close()
	client = t.connect("c")
	caught := t.subscribe(client, "x", "", stan.DeliverAllAvailable())
	t.publish(client, "x", 1, 1)
	t.see("a store in memory begins anew", caught.take(1))
	must(client.Close())
}

func closeAfterPublish(t *trial) {
	const count = 2000
	client := t.connect("c")
	for number := range count {
		_, err := client.PublishAsync(t.channel("x"), []byte(fmt.Sprint(number)), nil)
		must(err)
	}
	must(client.Close()) // all that was sent before is stored
	client = t.connect("c")
	caught := t.subscribe(client, "x", "", stan.DeliverAllAvailable())
	wrong := 0
	for number, message := range caught.messagesOf(count) {
		if string(message.Data) != fmt.Sprint(number) || message.Sequence != uint64(number+1) {
			wrong++
		}
	}
	t.see("out of place", wrong)
	t.settle(client, "x")
	t.see("too many", caught.rest())
	must(client.Close())
}

func closeAfterAck(t *trial) {
	client := t.connect("c")
	t.publish(client, "x", 1, 200)
	caught := t.subscribe(client, "x", "", durable(stan.MaxInflight(200))...)
	acked(caught.messagesOf(200)[:150])
	must(client.Close()) // all acks that were sent before count
	client = t.connect("c")
	caught = t.subscribe(client, "x", "", durable(stan.MaxInflight(200))...)
	messages := caught.messagesOf(50)
	t.see("first again", messages[0].Sequence)
	t.see("last again", messages[49].Sequence)
	t.settle(client, "x")
	t.see("too many", caught.rest())
	must(client.Close())
}

func thousandsInFlight(t *trial) {
	const count = 20_000
	client := t.connect("c", stan.MaxPubAcksInflight(count))
	caught := t.subscribe(client, "x", "", stan.MaxInflight(count))
	var failed, answered, misplaced atomic.Int64
	places := make(map[string]int64, count)
	ready := make(chan struct{})
	for number := range count {
		guid, err := client.PublishAsync(t.channel("x"), []byte(fmt.Sprint(number)),
			func(guid string, err error) {
				<-ready
				if err != nil {
					failed.Add(1)
				}
				if places[guid] != answered.Add(1)-1 {
					misplaced.Add(1)
				}
			})
		must(err)
		places[guid] = int64(number)
	}
	close(ready)
	wrong := 0
	for number, message := range caught.messagesOf(count) {
		if message.Sequence != uint64(number+1) || string(message.Data) != fmt.Sprint(number) {
			wrong++
		}
	}
	until("all acknowledgements", func() bool { return answered.Load() == count })
	t.see("acknowledged", answered.Load())
	t.see("failed", failed.Load())
	t.see("acknowledged out of order", misplaced.Load())
	t.see("delivered out of place", wrong)
	must(client.Close())
}

func publishOverRestart(t *trial) {
	under := t.dial()
	client := t.connect("c", stan.NatsConn(under), stan.Pings(1, 100))
	t.publish(client, "x", 1, 5)
	t.ask("stop and start")
	until("the connection", func() bool { return under.Status() == nats.CONNECTED })
	t.publish(client, "x", 6, 10)
	caught := t.subscribe(client, "x", "", stan.DeliverAllAvailable())
	t.see("no gap", caught.take(10))
	must(client.Close())
	under.Close()
}
