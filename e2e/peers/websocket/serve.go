package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Small buffers, so that long messages go out in fragments.
var upgrader = websocket.Upgrader{
	WriteBufferSize:   4096,
	Subprotocols:      []string{"ebb.v1"},
	EnableCompression: true,
}

// An open connection; its handler's end closes it without a word.
type handler func(*websocket.Conn) error

func serve(address string) error {
	for path, handle := range map[string]handler{
		"/echo": echo, "/close": closing, "/ping": pinging, "/first": speaking, "/cut": cutting,
	} {
		http.HandleFunc(path, func(writer http.ResponseWriter, request *http.Request) {
			connection, err := upgrader.Upgrade(writer, request, nil)
			if err != nil {
				return
			}
			defer connection.Close()
			_ = handle(connection) // The client knows best what is missing.
		})
	}
	http.HandleFunc("/refuse", func(writer http.ResponseWriter, _ *http.Request) {
		http.Error(writer, "not for you", http.StatusForbidden)
	})
	return http.ListenAndServe(address, nil)
}

// Sends each message back. A close frame of the client is answered by the library, with the same code.
func echo(connection *websocket.Conn) error {
	for {
		kind, message, err := connection.ReadMessage()
		if err != nil {
			return err
		}
		if err := connection.WriteMessage(kind, message); err != nil {
			return err
		}
	}
}

// Closes with the code and the reason that the first message names.
func closing(connection *websocket.Conn) error {
	_, message, err := connection.ReadMessage()
	if err != nil {
		return err
	}
	code, reason, _ := strings.Cut(string(message), " ")
	var number int
	if _, err := fmt.Sscan(code, &number); err != nil {
		return err
	}
	text := websocket.FormatCloseMessage(number, reason)
	if err := connection.WriteControl(websocket.CloseMessage, text, soon()); err != nil {
		return err
	}
	_, _, err = connection.ReadMessage()
	return err
}

// Pings, and tells the client of its pong.
func pinging(connection *websocket.Conn) error {
	pongs := make(chan string, 1)
	connection.SetPongHandler(func(payload string) error {
		pongs <- payload
		return nil
	})
	if err := connection.WriteControl(websocket.PingMessage, []byte("are you there?"), soon()); err != nil {
		return err
	}
	go func() {
		_ = connection.WriteMessage(websocket.TextMessage, []byte("pong to "+<-pongs))
	}()
	_, _, err := connection.ReadMessage()
	return err
}

// Speaks first, right after its answer to the handshake.
func speaking(connection *websocket.Conn) error {
	if err := connection.WriteMessage(websocket.TextMessage, []byte("welcome")); err != nil {
		return err
	}
	_, _, err := connection.ReadMessage()
	return err
}

// Ends after the first message, as a killed program does.
func cutting(connection *websocket.Conn) error {
	_, _, err := connection.ReadMessage()
	return err
}

func soon() time.Time { return time.Now().Add(limit) }
