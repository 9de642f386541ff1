// Both sides of a WebSocket, each with a library of its own: `websocket serve ADDRESS`, and `websocket call URL [CASE]`, which prints a line
// for each case, "ok NAME" or "FAILED NAME: WHY".
package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	var err error
	switch arguments := os.Args[1:]; {
	case len(arguments) == 2 && arguments[0] == "serve":
		err = serve(arguments[1])
	case len(arguments) == 2 && arguments[0] == "call":
		call(arguments[1], "")
	case len(arguments) == 3 && arguments[0] == "call":
		call(arguments[1], arguments[2])
	default:
		err = errors.New("usage: websocket serve ADDRESS, or websocket call URL [CASE]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
