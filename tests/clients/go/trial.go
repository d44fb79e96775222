// The official client for Go, through one scenario after the other. Reads a JSON list of scenarios
// from standard input, writes a JSON list of what came of each.
//
// A scenario: {url, token?, user?, pass?, seed?, ca?, cert?, key?}. Its result is {error} when the
// client was not let in, else what the client saw.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

type scenario struct {
	URL, Token, User, Pass, Seed, CA, Cert, Key string
}

const patience = 10 * time.Second

func open(given scenario) (*nats.Conn, error) {
	options := []nats.Option{nats.NoReconnect(), nats.Timeout(patience)}
	if given.Token != "" {
		options = append(options, nats.Token(given.Token))
	}
	if given.User != "" {
		options = append(options, nats.UserInfo(given.User, given.Pass))
	}
	if given.Seed != "" {
		pair, err := nkeys.FromSeed([]byte(given.Seed))
		if err != nil {
			return nil, err
		}
		public, err := pair.PublicKey()
		if err != nil {
			return nil, err
		}
		options = append(options, nats.Nkey(public, pair.Sign))
	}
	if given.CA != "" {
		options = append(options, nats.RootCAs(given.CA))
	}
	if given.Cert != "" {
		options = append(options, nats.ClientCert(given.Cert, given.Key))
	}
	return nats.Connect(given.URL, options...)
}

func use(client *nats.Conn) (map[string]any, error) {
	seen := map[string]any{}
	_, err := client.Subscribe("echo", func(message *nats.Msg) {
		answer := nats.NewMsg(message.Reply)
		answer.Data, answer.Header = message.Data, message.Header
		_ = message.RespondMsg(answer)
	})
	if err != nil {
		return nil, err
	}
	answer, err := client.Request("echo", []byte("hello"), patience)
	if err != nil {
		return nil, err
	}
	seen["answer"] = string(answer.Data)
	large, err := client.Request("echo", make([]byte, 200000), patience)
	if err != nil {
		return nil, err
	}
	seen["large"] = len(large.Data)
	marked := nats.NewMsg("echo")
	marked.Header.Set("Kind", "trial")
	answer, err = client.RequestMsg(marked, patience)
	if err != nil {
		return nil, err
	}
	seen["header"] = answer.Header.Get("Kind")
	var worked atomic.Int64
	for range 3 {
		_, err = client.QueueSubscribe("work", "group", func(*nats.Msg) { worked.Add(1) })
		if err != nil {
			return nil, err
		}
	}
	for range 100 {
		if err = client.Publish("work", []byte("x")); err != nil {
			return nil, err
		}
	}
	for until := time.Now().Add(patience); worked.Load() < 100 && time.Now().Before(until); {
		if err = client.Flush(); err != nil {
			return nil, err
		}
	}
	seen["worked"] = worked.Load()
	_, err = client.Request("nobody", nil, patience)
	if errors.Is(err, nats.ErrNoResponders) {
		seen["nobody"] = "NoResponders"
	}
	closed := make(chan struct{})
	client.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err = client.Drain(); err != nil {
		return nil, err
	}
	<-closed
	seen["closed"] = client.IsClosed()
	return seen, nil
}

func try(given scenario) map[string]any {
	client, err := open(given)
	if err == nil {
		seen, failure := use(client)
		if failure == nil {
			return seen
		}
		err = failure
	}
	name := "Error"
	if errors.Is(err, nats.ErrAuthorization) {
		name = "AuthorizationError"
	}
	return map[string]any{"error": name, "message": err.Error()}
}

func main() {
	var given []scenario
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	results := []map[string]any{}
	for _, each := range given {
		results = append(results, try(each))
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		os.Exit(1)
	}
}
