// Scenarios of durable subscriptions and of queue groups.
package main

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/nats-io/stan.go"
)

func init() {
	scenarios["durable-resumes"] = durableResumes
	scenarios["durable-over-stop"] = func(t *trial) { durableOverRestart(t, "stop and start") }
	scenarios["durable-over-kill"] = func(t *trial) { durableOverRestart(t, "kill and start") }
	scenarios["unsubscribe-or-close"] = unsubscribeOrClose
	scenarios["queue-group"] = queueGroup
	scenarios["queue-member-leaves"] = queueMemberLeaves
	scenarios["queue-member-killed"] = queueMemberKilled
	scenarios["member"] = member
	scenarios["durable-queue-group"] = durableQueueGroup
	scenarios["durable-queue-over-stop"] = durableQueueOverStop
}

func manual(more ...stan.SubscriptionOption) []stan.SubscriptionOption {
	return append([]stan.SubscriptionOption{stan.DeliverAllAvailable(), stan.SetManualAckMode(),
		stan.AckWait(time.Minute)}, more...)
}

func durable(more ...stan.SubscriptionOption) []stan.SubscriptionOption {
	return manual(append(more, stan.DurableName("d"))...)
}

func durableResumes(t *trial) {
	client := t.connect("c")
	t.publish(client, "x", 1, 6)
	caught := t.subscribe(client, "x", "", durable(stan.MaxInflight(4))...)
	held := caught.messagesOf(4)
	must(held[0].Ack())
	must(held[2].Ack())
	t.see("first", caught.take(2))
	must(caught.Close())
	t.publish(client, "x", 7, 7)
	// What is pending comes again at once; the new limit counts, the start position does not.
	caught = t.subscribe(client, "x", "", durable(stan.MaxInflight(5))...)
	t.see("after close", caught.take(5))
	must(client.Close())
	client = t.connect("c")
	caught = t.subscribe(client, "x", "", durable(stan.MaxInflight(6), stan.StartAtSequence(1))...)
	t.see("after a new connection", caught.take(5))
	other := t.connect("other")
	t.see("another client's", t.subscribe(other, "x", "", durable()...).take(7))
	must(caught.Unsubscribe())
	caught = t.subscribe(client, "x", "", durable()...)
	t.see("after unsubscribe", caught.take(7))
	must(client.Close())
	must(other.Close())
}

func durableOverRestart(t *trial, how string) {
	client := t.connect("c", stan.NatsConn(t.dial()))
	t.publish(client, "x", 1, 3)
	caught := t.subscribe(client, "x", "", durable()...)
	acked(caught.messagesOf(3))
	t.publish(client, "x", 4, 6)
	t.see("before", caught.take(3))
	t.settle(client, "x")
	t.ask(how)
	// The connection is the same: nothing is asked of the client.
	t.publish(client, "x", 7, 7)
	last := caught.next()
	for last.Sequence != 7 {
		last = caught.next()
	}
	t.see("same connection goes on", fmt.Sprint(last.Sequence))
	must(last.Ack())
	must(caught.Close())
	caught = t.subscribe(client, "x", "", durable()...)
	pending := caught.messagesOf(3)
	t.see("resumed", []uint64{pending[0].Sequence, pending[1].Sequence, pending[2].Sequence})
	acked(pending)
	t.publish(client, "x", 8, 8)
	t.see("then", fmt.Sprint(caught.next().Sequence))
	must(client.Close())
	client.NatsConn().Close()
	client = t.connect("c")
	caught = t.subscribe(client, "x", "", durable()...)
	t.see("only what was not acknowledged", fmt.Sprint(caught.next().Sequence))
	t.settle(client, "x")
	t.see("nothing else", caught.rest())
	must(client.Close())
}

func unsubscribeOrClose(t *trial) {
	client := t.connect("c")
	t.publish(client, "x", 1, 2)
	for _, name := range []string{"close", "unsubscribe"} {
		for _, kind := range []string{"plain", "durable"} {
			options := []stan.SubscriptionOption{stan.DeliverAllAvailable()}
			if kind == "durable" {
				options = append(options, stan.DurableName(name))
			}
			caught := t.subscribe(client, "x", "", options...)
			seen := caught.take(2)
			t.settle(client, "x")
			if name == "close" {
				must(caught.Close())
			} else {
				must(caught.Unsubscribe())
			}
			caught = t.subscribe(client, "x", "", options...)
			t.settle(client, "x")
			t.see(kind+" after "+name, [][]string{seen, caught.rest()})
			must(caught.Unsubscribe())
			t.see("again", text(caught.Close()))
		}
	}
	must(client.Close())
}

func queueGroup(t *trial) {
	client := t.connect("c")
	members := []*catcher{}
	for range 3 {
		members = append(members, t.subscribe(client, "x", "group", manual(stan.MaxInflight(4))...))
	}
	plain := t.subscribe(client, "x", "")
	t.publish(client, "x", 1, 15)
	t.see("plain", plain.take(15))
	for index, each := range members {
		t.see(fmt.Sprint("member ", index), each.take(4))
	}
	t.settle(client, "x")
	for index, each := range members {
		t.see(fmt.Sprint("stalled ", index), each.rest())
	}
	other := t.connect("other")
	t.see("another member", t.subscribe(other, "x", "group", manual()...).take(3))
	t.see("another group", t.subscribe(other, "x", "other", manual()...).take(15))
	must(other.Close())
	must(client.Close())
}

func queueMemberLeaves(t *trial) {
	client, other := t.connect("c"), t.connect("other")
	stays := t.subscribe(client, "x", "group", manual()...)
	leaves := t.subscribe(other, "x", "group", manual()...)
	t.publish(client, "x", 1, 6)
	first := append(stays.take(3), leaves.take(3)...)
	sort.Strings(first)
	t.see("between both", first)
	must(other.Close())
	again := stays.take(3)
	counted := []string{}
	for _, each := range again {
		_, count, _ := strings.Cut(each, " ")
		counted = append(counted, count)
	}
	t.see("what the other had", counted)
	must(stays.Close())
	late := t.subscribe(client, "x", "group", manual()...)
	t.see("a group of none is forgotten", late.take(6))
	must(client.Close())
}

// member joins the group, says so, and works until it is killed.
func member(t *trial) {
	client := t.connect("member")
	caught := t.subscribe(client, "x", "group", manual(stan.MaxInflight(10))...)
	t.see("joined", "")
	caught.messagesOf(5)
	t.see("holds", 5)
	select {}
}

func queueMemberKilled(t *trial) {
	client := t.connect("c")
	stays := t.subscribe(client, "x", "group", stan.SetManualAckMode(), stan.AckWait(time.Second),
		stan.MaxInflight(100))
	process, lines := t.other("member")
	lines.Scan()
	t.publish(client, "x", 1, 10)
	lines.Scan()
	must(process.Process.Kill())
	_ = process.Wait()
	done := newTally()
	until("all messages at the one that lives", func() bool {
		for len(stays.messages) > 0 {
			message := stays.next()
			done.add(fmt.Sprintf("%02d", message.Sequence))
			must(message.Ack())
		}
		return len(done.names()) == 10
	})
	t.see("in the end", done.names())
	must(client.Close())
}

func durableQueueGroup(t *trial) {
	client, other := t.connect("c"), t.connect("other")
	t.publish(client, "x", 1, 4)
	first := t.subscribe(client, "x", "group", durable()...)
	held := first.messagesOf(4)
	must(held[0].Ack())
	must(held[1].Ack())
	must(first.Close())
	t.publish(client, "x", 5, 5)
	second := t.subscribe(other, "x", "group", durable()...)
	t.see("another client takes over", second.take(3))
	third := t.subscribe(client, "x", "group", durable()...)
	must(second.Unsubscribe()) // not the last: only it goes
	t.see("the other's come over", third.take(3))
	must(third.Close())
	fourth := t.subscribe(other, "x", "group", durable()...)
	got := fourth.messagesOf(3)
	t.see("the group has stayed", []uint64{got[0].Sequence, got[1].Sequence, got[2].Sequence})
	must(fourth.Unsubscribe()) // the last one
	fifth := t.subscribe(client, "x", "group", durable()...)
	t.see("from the beginning", fifth.take(5))
	must(client.Close())
	must(other.Close())
}

func durableQueueOverStop(t *trial) {
	client := t.connect("c", stan.NatsConn(t.dial()))
	t.publish(client, "x", 1, 4)
	caught := t.subscribe(client, "x", "group", durable()...)
	held := caught.messagesOf(4)
	must(held[0].Ack())
	must(held[3].Ack())
	must(caught.Close())
	t.settle(client, "x")
	t.ask("stop and start")
	t.publish(client, "x", 5, 5)
	again := t.subscribe(client, "x", "group", durable()...).messagesOf(3)
	t.see("resumed", []uint64{again[0].Sequence, again[1].Sequence, again[2].Sequence})
	must(client.Close())
	client.NatsConn().Close()
}
