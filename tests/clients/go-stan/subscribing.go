// Scenarios of subscriptions: where they start, how much is in flight, what comes again.
package main

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/nats-io/stan.go"
)

func init() {
	scenarios["start-positions"] = startPositions
	scenarios["start-on-empty-channel"] = startOnEmptyChannel
	scenarios["max-in-flight"] = maxInFlight
	scenarios["redelivery"] = redelivery
	scenarios["late-ack"] = lateAck
	scenarios["refused-subscriptions"] = refusedSubscriptions
	scenarios["payloads"] = payloads
	scenarios["many-subscriptions"] = manySubscriptions
}

var starts = []struct {
	name    string
	options []stan.SubscriptionOption
}{
	{"new only", nil},
	{"last received", []stan.SubscriptionOption{stan.StartWithLastReceived()}},
	{"first", []stan.SubscriptionOption{stan.DeliverAllAvailable()}},
	{"sequence 0", []stan.SubscriptionOption{stan.StartAtSequence(0)}},
	{"sequence 3", []stan.SubscriptionOption{stan.StartAtSequence(3)}},
	{"sequence 5", []stan.SubscriptionOption{stan.StartAtSequence(5)}},
	{"sequence 99", []stan.SubscriptionOption{stan.StartAtSequence(99)}},
	{"an hour ago", []stan.SubscriptionOption{stan.StartAtTimeDelta(time.Hour)}},
	{"in an hour", []stan.SubscriptionOption{stan.StartAtTime(time.Now().Add(time.Hour))}},
	{"now", []stan.SubscriptionOption{stan.StartAtTimeDelta(0)}},
}

func startPositions(t *trial) {
	client := t.connect("c")
	t.publish(client, "x", 1, 3)
	time.Sleep(300 * time.Millisecond)
	between := time.Now()
	time.Sleep(300 * time.Millisecond)
	t.publish(client, "x", 4, 5)
	all := append(starts[:len(starts):len(starts)], starts[0])
	last := len(all) - 1
	all[last].name = "between 3 and 4"
	all[last].options = []stan.SubscriptionOption{stan.StartAtTime(between)}
	caught := []*catcher{}
	for _, each := range all {
		caught = append(caught, t.subscribe(client, "x", "", each.options...))
	}
	t.publish(client, "x", 6, 6)
	for index, each := range all {
		seen := []string{}
		for len(seen) == 0 || seen[len(seen)-1] != "6" {
			seen = append(seen, caught[index].take(1)...)
		}
		t.see(each.name, seen)
	}
	must(client.Close())
}

func startOnEmptyChannel(t *trial) {
	client := t.connect("c")
	for number, each := range starts {
		channel := fmt.Sprint("empty", number)
		caught := t.subscribe(client, channel, "", each.options...)
		t.publish(client, channel, 1, 2)
		t.see(each.name, caught.take(2))
	}
	must(client.Close())
}

func maxInFlight(t *trial) {
	client := t.connect("c")
	t.publish(client, "x", 1, 10)
	caught := t.subscribe(client, "x", "", stan.DeliverAllAvailable(), stan.MaxInflight(3),
		stan.SetManualAckMode(), stan.AckWait(time.Minute))
	held := caught.messagesOf(3)
	t.settle(client, "x")
	t.see("stalled", caught.rest())
	must(held[1].Ack())
	t.see("one ack", caught.take(1))
	t.settle(client, "x")
	t.see("stalled again", caught.rest())
	must(held[1].Ack())
	t.settle(client, "x")
	t.see("the same ack", caught.rest())
	must(held[0].Ack())
	must(held[2].Ack())
	t.see("two acks", caught.take(2))
	t.publish(client, "x", 11, 11)
	t.settle(client, "x")
	t.see("a new one waits", caught.rest())
	must(client.Close())
}

func redelivery(t *trial) {
	client := t.connect("c")
	t.publish(client, "x", 1, 3)
	caught := t.subscribe(client, "x", "", stan.DeliverAllAvailable(), stan.MaxInflight(3),
		stan.SetManualAckMode(), stan.AckWait(time.Second))
	first := caught.messagesOf(3)
	t.publish(client, "x", 4, 4)
	t.see("first round", []string{shown(first[0]), shown(first[1]), shown(first[2])})
	again := caught.messagesOf(3)
	t.see("second round", []string{shown(again[0]), shown(again[1]), shown(again[2])})
	must(again[1].Ack())
	t.see("room for one", caught.take(1))
	third := caught.messagesOf(3)
	rounds := map[string]bool{}
	for _, each := range third {
		rounds[shown(each)] = true
	}
	t.see("third round", rounds)
	t.see("payload", string(third[0].Data))
	acked(third)
	must(client.Close())
}

func lateAck(t *trial) {
	client := t.connect("c")
	t.publish(client, "x", 1, 1)
	slow := t.subscribe(client, "x", "group", stan.DeliverAllAvailable(), stan.SetManualAckMode(),
		stan.AckWait(time.Second))
	held := slow.next()
	quick := t.subscribe(client, "x", "group", stan.SetManualAckMode(), stan.AckWait(time.Second))
	t.see("moves to", quick.take(1))
	must(held.Ack()) // by the member that has it no longer
	time.Sleep(1500 * time.Millisecond)
	t.settle(client, "x")
	t.see("after the late ack", append(slow.rest(), quick.rest()...))
	must(client.Close())
}

func refusedSubscriptions(t *trial) {
	client := t.connect("c")
	try := func(step, channel string, options ...stan.SubscriptionOption) {
		_, err := t.catch(client, channel, "", options...)
		t.see(step, text(err))
	}
	try("ack wait", "x", stan.AckWait(500*time.Millisecond))
	try("max in flight", "x", stan.MaxInflight(0))
	try("wildcard", "x.*")
	try("full wildcard", "x.>")
	try("slash", "x/y")
	try("empty token", "x..y")
	try("durable", "x", stan.DurableName("d"))
	try("durable twice", "x", stan.DurableName("d"))
	_, err := t.catch(client, "x", "group", stan.DurableName("a:b"))
	t.see("colon", text(err))
	caught := t.subscribe(client, "x", "")
	t.publish(client, "x", 1, 1)
	t.see("manual ack in automatic mode", text(caught.next().Ack()))
	must(caught.Unsubscribe())
	t.see("unsubscribed twice", text(caught.Unsubscribe()))
	must(client.Close())
	_, err = t.catch(client, "x", "")
	t.see("after close", text(err))
}

func payloads(t *trial) {
	client := t.connect("c")
	caught := t.subscribe(client, "x", "")
	for _, size := range []int{0, 1, 127, 128, 16_383, 16_384, 70_000, 1_000_000} {
		body := bytes.Repeat([]byte("0123456\x00\xff\r\n"), size/11+1)[:size]
		must(client.Publish(t.channel("x"), body))
		message := caught.next()
		t.see(fmt.Sprint(size), map[string]any{"bytes": len(message.Data),
			"same":    crc32.ChecksumIEEE(body) == crc32.ChecksumIEEE(message.Data),
			"channel": message.Subject == t.channel("x"), "sequence": message.Sequence})
	}
	t.see("too large", text(client.Publish(t.channel("x"), make([]byte, 1<<20))))
	must(client.Close())
}

func manySubscriptions(t *trial) {
	client := t.connect("c")
	caught := []*catcher{}
	for range 50 {
		caught = append(caught, t.subscribe(client, "x", ""))
	}
	t.publish(client, "x", 1, 20)
	same := 0
	want := fmt.Sprint(caught[0].take(20))
	for _, each := range caught[1:] {
		if fmt.Sprint(each.take(20)) == want {
			same++
		}
	}
	t.see("the first got", want)
	t.see("others like it", same)
	must(client.Close())
}
