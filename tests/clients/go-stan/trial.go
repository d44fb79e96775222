// The Go client of NATS Streaming, unchanged, through one scenario: trial SCENARIO URL CLUSTER NAMES.
//
// What the client saw goes to standard output, a JSON object a line, without anything that differs
// from run to run. A line {"ask": ...} is a wish to whoever started the program, which is fulfilled
// once a line comes back on standard input. NAMES is a prefix of client ids and channels.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"
)

const patience = 20 * time.Second

var scenarios = map[string]func(*trial){}

type trial struct {
	url, cluster, names string
	input               *bufio.Scanner
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// see writes one line of the transcript.
func (t *trial) see(step string, what any) {
	line, err := json.Marshal(map[string]any{"step": step, "saw": what})
	must(err)
	fmt.Println(string(line))
}

// ask waits until the driver has done something.
func (t *trial) ask(what string) {
	line, err := json.Marshal(map[string]string{"ask": what})
	must(err)
	fmt.Println(string(line))
	if !t.input.Scan() {
		fail("nobody does %q", what)
	}
}

// dial opens a NATS connection of its own that comes back by itself.
func (t *trial) dial() *nats.Conn {
	connection, err := nats.Connect(t.url, nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	must(err)
	return connection
}

func (t *trial) tryConnect(id string, options ...stan.Option) (stan.Conn, error) {
	return stan.Connect(t.cluster, t.names+id, append([]stan.Option{
		stan.NatsURL(t.url), stan.ConnectWait(patience), stan.PubAckWait(patience)}, options...)...)
}

func (t *trial) connect(id string, options ...stan.Option) stan.Conn {
	client, err := t.tryConnect(id, options...)
	must(err)
	return client
}

func (t *trial) channel(name string) string {
	return t.names + name
}

// publish stores messages whose payloads are the numbers first to last.
func (t *trial) publish(client stan.Conn, channel string, first, last int) {
	for number := first; number <= last; number++ {
		must(client.Publish(t.channel(channel), []byte(fmt.Sprint(number))))
	}
}

// catcher holds what a subscription got.
type catcher struct {
	messages chan *stan.Msg
	stan.Subscription
}

func (t *trial) catch(client stan.Conn, channel, group string,
	options ...stan.SubscriptionOption) (*catcher, error) {
	caught := &catcher{messages: make(chan *stan.Msg, 100_000)}
	var err error
	caught.Subscription, err = client.QueueSubscribe(t.channel(channel), group,
		func(message *stan.Msg) { caught.messages <- message }, options...)
	return caught, err
}

func (t *trial) subscribe(client stan.Conn, channel, group string,
	options ...stan.SubscriptionOption) *catcher {
	caught, err := t.catch(client, channel, group, options...)
	must(err)
	return caught
}

func (c *catcher) next() *stan.Msg {
	select {
	case message := <-c.messages:
		return message
	case <-time.After(patience):
		panic("a message did not come")
	}
}

// shown is a sequence and, of a redelivery, how often.
func shown(message *stan.Msg) string {
	if message.Redelivered {
		return fmt.Sprintf("%d again %d", message.Sequence, message.RedeliveryCount)
	}
	return fmt.Sprint(message.Sequence)
}

// take waits for so many messages.
func (c *catcher) take(count int) []string {
	seen := []string{}
	for len(seen) < count {
		seen = append(seen, shown(c.next()))
	}
	return seen
}

// messagesOf waits for so many messages and keeps them.
func (c *catcher) messagesOf(count int) []*stan.Msg {
	kept := []*stan.Msg{}
	for len(kept) < count {
		kept = append(kept, c.next())
	}
	return kept
}

// rest is what has come already and nobody took.
func (c *catcher) rest() []string {
	seen := []string{}
	for len(c.messages) > 0 {
		seen = append(seen, shown(<-c.messages))
	}
	return seen
}

// settle returns when all that the server had to deliver of a channel has been handed over. The
// answer to an unsubscribe comes after every publish and every ack that were sent before it, from
// the one that delivers the channel; handlers run on goroutines of their own, hence the pause.
func (t *trial) settle(client stan.Conn, channel string) {
	caught := t.subscribe(client, channel, "", stan.StartWithLastReceived())
	caught.next()
	must(caught.Unsubscribe())
	must(client.NatsConn().Flush())
	time.Sleep(50 * time.Millisecond)
}

func acked(messages []*stan.Msg) {
	for _, message := range messages {
		must(message.Ack())
	}
}

// tally counts what several subscriptions get between them.
type tally struct {
	sync.Mutex
	seen map[string]int
}

func newTally() *tally { return &tally{seen: map[string]int{}} }

func (c *tally) add(name string) {
	c.Lock()
	defer c.Unlock()
	c.seen[name]++
}

func (c *tally) names() []string {
	c.Lock()
	defer c.Unlock()
	names := make([]string, 0, len(c.seen))
	for name := range c.seen {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// until waits for a condition.
func until(what string, condition func() bool) {
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			panic("waited in vain for " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// other starts this program again, as another process that goes through another scenario.
func (t *trial) other(scenario string) (*exec.Cmd, *bufio.Scanner) {
	path, err := os.Executable()
	must(err)
	process := exec.Command(path, scenario, t.url, t.cluster, t.names)
	process.Stderr = os.Stderr
	output, err := process.StdoutPipe()
	must(err)
	must(process.Start())
	return process, bufio.NewScanner(output)
}

func main() {
	if len(os.Args) != 5 {
		fail("trial SCENARIO URL CLUSTER NAMES")
	}
	run, found := scenarios[os.Args[1]]
	if !found {
		fail("no scenario %q", os.Args[1])
	}
	run(&trial{os.Args[2], os.Args[3], os.Args[4], bufio.NewScanner(os.Stdin)})
}
