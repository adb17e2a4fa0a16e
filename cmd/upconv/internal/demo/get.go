package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Get is a web client that only knows IPv4, for where there is no curl: it writes the page to w and
// returns the exit status.
func Get(ctx context.Context, w io.Writer, url string) (status int, err error) {
	var dialer net.Dialer
	err = get(ctx, w, url, func(ctx context.Context, _, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp4", address)
	})
	if err != nil {
		return exitStep, err
	}
	return 0, nil
}

// get writes the page at url to w. Proxies are not asked.
func get(ctx context.Context, w io.Writer, url string, dial func(ctx context.Context, network, address string) (net.Conn, error)) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	_, err = io.Copy(w, response.Body)
	return err
}
