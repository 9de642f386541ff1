package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Longest time of a case.
const limit = 20 * time.Second

type client struct {
	ctx context.Context
	url string
}

var cases = []struct {
	name string
	test func(client) error
}{
	{"text", func(c client) error { return c.echoes(websocket.MessageText, []byte("hello")) }},
	{"text outside of ASCII", func(c client) error { return c.echoes(websocket.MessageText, []byte("κόσμε 😀")) }},
	{"binary", func(c client) error { return c.echoes(websocket.MessageBinary, []byte{0, 255, 13, 10}) }},
	{"an empty message", func(c client) error { return c.echoes(websocket.MessageBinary, nil) }},
	{"125, 126, 127, 65,535 and 65,536 bytes", client.lengths},
	{"1 MiB of text", func(c client) error { return c.echoes(websocket.MessageText, pattern(1<<20)) }},
	{"1 MiB of bytes", func(c client) error { return c.echoes(websocket.MessageBinary, pattern(1<<20)) }},
	{"fragments", client.fragments},
	{"a ping between fragments", client.pingBetweenFragments},
	{"compressed messages", client.compressed},
	{"ping of the client", client.ping},
	{"ping of the server", client.pinged},
	{"the server speaks first", client.welcomed},
	{"a thousand messages before the first answer is read", client.many},
	{"50 connections at once", client.together},
	{"a subprotocol", client.subprotocol},
	{"a refused handshake", client.refused},
	{"close 1000 of the client", func(c client) error { return c.closes(1000, "") }},
	{"close 1001 of the client", func(c client) error { return c.closes(1001, "going away") }},
	{"close 3000 of the client", func(c client) error { return c.closes(3000, "registered") }},
	{"close 4999 of the client", func(c client) error { return c.closes(4999, strings.Repeat("x", 123)) }},
	{"close 1000 of the server", func(c client) error { return c.closed(1000, "") }},
	{"close 1011 of the server", func(c client) error { return c.closed(1011, "it broke") }},
	{"close 4000 of the server", func(c client) error { return c.closed(4000, strings.Repeat("x", 123)) }},
	{"a server that ends without a word", client.cut},
}

func call(url, only string) {
	for _, one := range cases {
		if only != "" && one.name != only {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		if err := one.test(client{ctx, url}); err != nil {
			fmt.Printf("FAILED %s: %v\n", one.name, err)
		} else {
			fmt.Printf("ok %s\n", one.name)
		}
		cancel()
	}
}

func (c client) open(path string, options *websocket.DialOptions) (*websocket.Conn, error) {
	connection, _, err := websocket.Dial(c.ctx, c.url+path, options)
	if err == nil {
		connection.SetReadLimit(4 << 20)
	}
	return connection, err
}

// Opens a connection, does something with it, and closes it in order.
func (c client) with(path string, options *websocket.DialOptions, do func(*websocket.Conn) error) error {
	connection, err := c.open(path, options)
	if err != nil {
		return err
	}
	defer connection.CloseNow()
	if err := do(connection); err != nil {
		return err
	}
	return connection.Close(websocket.StatusNormalClosure, "")
}

func (c client) echoes(kind websocket.MessageType, message []byte) error {
	return c.with("/echo", nil, func(connection *websocket.Conn) error {
		if err := connection.Write(c.ctx, kind, message); err != nil {
			return err
		}
		return c.expect(connection, kind, message)
	})
}

func (c client) expect(connection *websocket.Conn, kind websocket.MessageType, message []byte) error {
	gotKind, got, err := connection.Read(c.ctx)
	if err != nil {
		return err
	}
	if gotKind != kind || !bytes.Equal(got, message) {
		return fmt.Errorf("got %v of %d bytes instead of %v of %d", gotKind, len(got), kind, len(message))
	}
	return nil
}

// Where the encoding of the length changes, and beside it.
func (c client) lengths() error {
	for _, length := range []int{125, 126, 127, 65535, 65536} {
		if err := c.echoes(websocket.MessageBinary, pattern(length)); err != nil {
			return err
		}
	}
	return nil
}

func (c client) fragments() error { return c.fragmented(func(*websocket.Conn) error { return nil }) }

func (c client) pingBetweenFragments() error {
	return c.fragmented(func(connection *websocket.Conn) error { return connection.Ping(c.ctx) })
}

// A message in five fragments, with something between them.
func (c client) fragmented(between func(*websocket.Conn) error) error {
	message := pattern(5 * 5000)
	options := &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled}
	return c.with("/echo", options, func(connection *websocket.Conn) error {
		writer, err := connection.Writer(c.ctx, websocket.MessageBinary)
		if err != nil {
			return err
		}
		// A ping's answer is seen only by one who reads.
		answer := make(chan error, 1)
		go func() { answer <- c.expect(connection, websocket.MessageBinary, message) }()
		for piece := message; len(piece) > 0; piece = piece[5000:] {
			if _, err := writer.Write(piece[:5000]); err != nil {
				return err
			}
			if err := between(connection); err != nil {
				return err
			}
		}
		if err := writer.Close(); err != nil {
			return err
		}
		return <-answer
	})
}

func (c client) compressed() error {
	options := &websocket.DialOptions{CompressionMode: websocket.CompressionNoContextTakeover, CompressionThreshold: 1}
	connection, response, err := websocket.Dial(c.ctx, c.url+"/echo", options)
	if err != nil {
		return err
	}
	defer connection.CloseNow()
	connection.SetReadLimit(4 << 20)
	if extensions := response.Header.Get("Sec-WebSocket-Extensions"); !strings.Contains(extensions, "permessage-deflate") {
		return fmt.Errorf("the server's extensions are %q", extensions)
	}
	message := bytes.Repeat([]byte("again and "), 10000)
	if err := connection.Write(c.ctx, websocket.MessageText, message); err != nil {
		return err
	}
	if err := c.expect(connection, websocket.MessageText, message); err != nil {
		return err
	}
	return connection.Close(websocket.StatusNormalClosure, "")
}

func (c client) ping() error {
	return c.with("/echo", nil, func(connection *websocket.Conn) error {
		return c.pingWhileReading(connection)
	})
}

func (c client) pingWhileReading(connection *websocket.Conn) error {
	read := make(chan error, 1)
	go func() { read <- c.expect(connection, websocket.MessageText, []byte("after")) }()
	if err := connection.Ping(c.ctx); err != nil {
		return err
	}
	if err := connection.Write(c.ctx, websocket.MessageText, []byte("after")); err != nil {
		return err
	}
	return <-read
}

func (c client) pinged() error {
	return c.with("/ping", nil, func(connection *websocket.Conn) error {
		return c.expect(connection, websocket.MessageText, []byte("pong to are you there?"))
	})
}

func (c client) welcomed() error {
	return c.with("/first", nil, func(connection *websocket.Conn) error {
		return c.expect(connection, websocket.MessageText, []byte("welcome"))
	})
}

func (c client) many() error {
	return c.with("/echo", nil, func(connection *websocket.Conn) error {
		for number := range 1000 {
			if err := connection.Write(c.ctx, websocket.MessageText, fmt.Append(nil, number)); err != nil {
				return err
			}
		}
		for number := range 1000 {
			if err := c.expect(connection, websocket.MessageText, fmt.Append(nil, number)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c client) together() error {
	var all sync.WaitGroup
	failures := make([]error, 50)
	for number := range failures {
		all.Go(func() {
			failures[number] = c.echoes(websocket.MessageText, fmt.Append(nil, number))
		})
	}
	all.Wait()
	return errors.Join(failures...)
}

func (c client) subprotocol() error {
	options := &websocket.DialOptions{Subprotocols: []string{"other", "ebb.v1"}}
	return c.with("/echo", options, func(connection *websocket.Conn) error {
		if got := connection.Subprotocol(); got != "ebb.v1" {
			return fmt.Errorf("the subprotocol is %q", got)
		}
		return nil
	})
}

func (c client) refused() error {
	connection, response, err := websocket.Dial(c.ctx, c.url+"/refuse", nil)
	if err == nil {
		connection.CloseNow()
		return errors.New("the handshake was accepted")
	}
	if response == nil || response.StatusCode != http.StatusForbidden {
		return fmt.Errorf("not the server's answer: %w", err)
	}
	return nil
}

// The client closes; the server says the same code in return, or this fails.
func (c client) closes(code websocket.StatusCode, reason string) error {
	connection, err := c.open("/echo", nil)
	if err != nil {
		return err
	}
	defer connection.CloseNow()
	return connection.Close(code, reason)
}

// The server closes; the client gets its code and reason.
func (c client) closed(code websocket.StatusCode, reason string) error {
	connection, err := c.open("/close", nil)
	if err != nil {
		return err
	}
	defer connection.CloseNow()
	if err := connection.Write(c.ctx, websocket.MessageText, fmt.Appendf(nil, "%d %s", code, reason)); err != nil {
		return err
	}
	_, _, err = connection.Read(c.ctx)
	var said websocket.CloseError
	if !errors.As(err, &said) || said.Code != code || said.Reason != reason {
		return fmt.Errorf("the connection ended so: %w", err)
	}
	return nil
}

func (c client) cut() error {
	connection, err := c.open("/cut", nil)
	if err != nil {
		return err
	}
	defer connection.CloseNow()
	if err := connection.Write(c.ctx, websocket.MessageText, []byte("go")); err != nil {
		return err
	}
	_, _, err = connection.Read(c.ctx)
	if websocket.CloseStatus(err) != -1 || c.ctx.Err() != nil || err == nil {
		return fmt.Errorf("not the end of the connection: %w", err)
	}
	return nil
}

// Text that repeats only after long.
func pattern(length int) []byte {
	text := make([]byte, length)
	for index := range text {
		text[index] = 'a' + byte(index*index/7%26)
	}
	return text
}
