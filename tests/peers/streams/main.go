// Command streams runs commands in a pod, reads its logs and forwards its port by client-go, and prints a line for each thing
// that holds:
//
//	streams KUBECONFIG POD CONTAINER PORT   ->  "ok WAY: NAME" or "FAIL WAY: NAME: what was seen instead"
//
// The ways: "server", through the API server of KUBECONFIG; "proxy", through the code by which kube-apiserver connects a client
// to a kubelet, run here in front of the node's own port. The container has sh, and echoes at PORT what it is sent.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream/wsstream"
	machineryproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

const namespace = "default"

// way is one path to the pod.
type way struct {
	name      string
	config    *rest.Config
	client    kubernetes.Interface
	pod       string
	container string
	port      string
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	front, err := kubeAPIServer(config, os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer front.Close()
	failed := 0
	for name, config := range map[string]*rest.Config{"server": config, "proxy": {Host: front.URL}} {
		w := way{name, config, kubernetes.NewForConfigOrDie(config), os.Args[2], os.Args[3], os.Args[4]}
		for _, each := range checks {
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			err := each.do(ctx, w)
			cancel()
			if err == nil {
				fmt.Printf("ok %s: %s\n", name, each.name)
			} else {
				failed++
				fmt.Printf("FAIL %s: %s: %s\n", name, each.name, strings.ReplaceAll(err.Error(), "\n", " "))
			}
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}

// --- kube-apiserver in front of the node ------------------------------------------------------------------------------

type responder struct{ writer http.ResponseWriter }

func (r responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	status := apierrors.NewInternalError(err).Status()
	http.Error(w, status.Message, int(status.Code))
}

// kubeAPIServer answers the pod's subresources as pkg/registry/core/pod/rest/subresources.go and pkg/registry/core/pod/strategy.go
// do: with an upgrade aware handler, a translation of WebSockets into SPDY, a tunnel of SPDY in WebSockets.
func kubeAPIServer(config *rest.Config, pod, container string) (*httptest.Server, error) {
	client := kubernetes.NewForConfigOrDie(config)
	found, err := client.CoreV1().Pods(namespace).Get(context.Background(), pod, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	node, err := client.CoreV1().Nodes().Get(context.Background(), found.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	// The admin's certificate instead of kube-apiserver's own: it may do everything on nodes, too.
	toNode := rest.CopyConfig(config)
	toNode.TLSClientConfig.CAData, toNode.TLSClientConfig.CAFile, toNode.TLSClientConfig.Insecure = nil, "", true
	transport, err := rest.TransportFor(toNode)
	if err != nil {
		return nil, err
	}
	host := net.JoinHostPort("127.0.0.1", fmt.Sprint(node.Status.DaemonEndpoints.KubeletEndpoint.Port))
	mux := http.NewServeMux()
	base := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/", namespace, pod)
	mux.HandleFunc(base+"log", func(w http.ResponseWriter, r *http.Request) {
		location := &url.URL{Scheme: "https", Host: host, Path: fmt.Sprintf("/containerLogs/%s/%s/%s", namespace, pod, container), RawQuery: r.URL.RawQuery}
		request, err := http.NewRequestWithContext(r.Context(), "GET", location.String(), nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := transport.RoundTrip(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		buffer := make([]byte, 4096)
		for {
			n, err := answer.Body.Read(buffer)
			w.Write(buffer[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	})
	for verb, path := range map[string]string{"exec": "exec", "attach": "attach"} {
		mux.HandleFunc(base+verb, func(w http.ResponseWriter, r *http.Request) {
			asked, params := r.URL.Query(), url.Values{}
			is := func(name string) bool { return asked.Get(name) == "true" || asked.Get(name) == "1" }
			for name, own := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
				if is(name) {
					params.Add(own, "1")
				}
			}
			for _, part := range asked["command"] {
				params.Add("command", part)
			}
			location := &url.URL{Scheme: "https", Host: host, Path: fmt.Sprintf("/%s/%s/%s/%s", path, namespace, pod, container), RawQuery: params.Encode()}
			handler := machineryproxy.NewUpgradeAwareHandler(location, transport, false, true, responder{w})
			translator := proxy.NewStreamTranslatorHandler(location, transport, 0, proxy.Options{Stdin: is("stdin"), Stdout: is("stdout"), Stderr: is("stderr"), Tty: is("tty")})
			proxy.NewTranslatingHandler(handler, translator, wsstream.IsWebSocketRequestWithStreamCloseProtocol).ServeHTTP(w, r)
		})
	}
	mux.HandleFunc(base+"portforward", func(w http.ResponseWriter, r *http.Request) {
		location := &url.URL{Scheme: "https", Host: host, Path: fmt.Sprintf("/portForward/%s/%s", namespace, pod)}
		handler := machineryproxy.NewUpgradeAwareHandler(location, transport, false, true, responder{w})
		proxy.NewTranslatingHandler(handler, proxy.NewTunnelingHandler(handler), wsstream.IsWebSocketRequestWithTunnelingProtocol).ServeHTTP(w, r)
	})
	return httptest.NewServer(mux), nil
}

// --- checks -----------------------------------------------------------------------------------------------------------

var checks = []struct {
	name string
	do   func(context.Context, way) error
}{
	{"commands by websocket v5", over(websocket, commands)},
	{"commands by websocket v4", over(websocketV4, outputs)},
	{"commands by spdy", over(spdyStream, commands)},
	{"terminal by websocket", over(websocket, terminal)},
	{"terminal by spdy", over(spdyStream, terminal)},
	{"five megabytes each way by websocket", over(websocket, volume)},
	{"five megabytes each way by spdy", over(spdyStream, volume)},
	{"attach by websocket", attach(websocket)},
	{"attach by spdy", attach(spdyStream)},
	{"fallback from websocket", fallback},
	{"cancelled command", cancelled},
	{"logs", logs},
	{"port forward by websocket", forward(true)},
	{"port forward by spdy", forward(false)},
}

type maker func(w way, location *url.URL) (remotecommand.Executor, error)

func websocket(w way, location *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutor(w.config, "GET", location.String())
}

func websocketV4(w way, location *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutorForProtocols(w.config, "GET", location.String(), "v4.channel.k8s.io")
}

func spdyStream(w way, location *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewSPDYExecutor(w.config, "POST", location)
}

type runner func(ctx context.Context, options remotecommand.StreamOptions, command ...string) error

func over(make maker, do func(context.Context, runner) error) func(context.Context, way) error {
	return func(ctx context.Context, w way) error {
		return do(ctx, func(ctx context.Context, o remotecommand.StreamOptions, command ...string) error {
			location := w.client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(w.pod).SubResource("exec").
				VersionedParams(&corev1.PodExecOptions{Container: w.container, Command: command, Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil, TTY: o.Tty}, scheme.ParameterCodec).URL()
			executor, err := make(w, location)
			if err != nil {
				return err
			}
			return executor.StreamWithContext(ctx, o)
		})
	}
}

func want[T comparable](what string, got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("%s: %.200v instead of %.200v", what, got, wanted)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func outputs(ctx context.Context, run runner) error {
	var out, err bytes.Buffer
	failed := run(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &err}, "sh", "-c", "echo out; echo err >&2; exit 7")
	var code utilexec.CodeExitError
	if !errors.As(failed, &code) {
		return fmt.Errorf("exit: %v", failed)
	}
	if e := first(want("code", code.Code, 7), want("out", out.String(), "out\n"), want("err", err.String(), "err\n"), want("text", code.Error(), "command terminated with exit code 7")); e != nil {
		return e
	}
	out.Reset()
	if e := run(ctx, remotecommand.StreamOptions{Stdout: &out}, "echo", "a b", "é", ""); e != nil {
		return e
	}
	if e := want("arguments", out.String(), "a b é \n"); e != nil {
		return e
	}
	missing := run(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &err}, "/no/such/program")
	if missing == nil {
		return fmt.Errorf("a program that is not there ran")
	}
	return nil
}

func commands(ctx context.Context, run runner) error {
	if err := outputs(ctx, run); err != nil {
		return err
	}
	// The end of the input has to arrive, or cat would never end; the exit code says so to both.
	var out bytes.Buffer
	err := run(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("in\n"), Stdout: &out}, "sh", "-c", "cat; echo end")
	if err := first(err, want("echo", out.String(), "in\nend\n")); err != nil {
		return err
	}
	// What is sent to a command that does not read it is nobody's failure.
	out.Reset()
	err = run(ctx, remotecommand.StreamOptions{Stdin: bytes.NewReader(make([]byte, 1<<20)), Stdout: &out}, "echo", "done")
	return first(err, want("unread", out.String(), "done\n"))
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func terminal(ctx context.Context, run runner) error {
	queue := make(sizes, 1)
	queue <- remotecommand.TerminalSize{Width: 123, Height: 45}
	in, keys := io.Pipe()
	defer keys.Close()
	var out bytes.Buffer
	time.AfterFunc(300*time.Millisecond, func() { keys.Write([]byte("go\r")) })
	err := run(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: queue},
		"sh", "-c", "read line; while [ \"$(stty size)\" != '45 123' ]; do sleep 0.05; done; stty size; tty; exit 3")
	var code utilexec.CodeExitError
	if !errors.As(err, &code) || code.Code != 3 {
		return fmt.Errorf("exit: %v; %q", err, out.String())
	}
	if !strings.Contains(out.String(), "45 123\r\n/dev/pts/") {
		return fmt.Errorf("%q", out.String())
	}
	return nil
}

func volume(ctx context.Context, run runner) error {
	sent := bytes.Repeat([]byte("0123456789abcdef"), 5<<16)
	var out, err bytes.Buffer
	failed := run(ctx, remotecommand.StreamOptions{Stdin: bytes.NewReader(sent), Stdout: &out, Stderr: &err}, "sh", "-c", "tee /proc/self/fd/2")
	return first(failed, want("out", bytes.Equal(out.Bytes(), sent), true), want("err", bytes.Equal(err.Bytes(), sent), true))
}

func attach(make maker) func(context.Context, way) error {
	return func(ctx context.Context, w way) error {
		location := w.client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(w.pod).SubResource("attach").
			VersionedParams(&corev1.PodAttachOptions{Container: w.container, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
		executor, err := make(w, location)
		if err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		seen := &ticks{stop: cancel}
		err = executor.StreamWithContext(limited, remotecommand.StreamOptions{Stdout: seen, Stderr: io.Discard})
		if seen.count < 2 {
			return fmt.Errorf("%d ticks; %v", seen.count, err)
		}
		return nil
	}
}

// ticks counts what the container prints, and stops at the second.
type ticks struct {
	count int
	stop  func()
}

func (t *ticks) Write(p []byte) (int, error) {
	if t.count += bytes.Count(p, []byte("tick")); t.count >= 2 {
		t.stop()
	}
	return len(p), nil
}

func fallback(ctx context.Context, w way) error {
	location := w.client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(w.pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: w.container, Command: []string{"echo", "x"}, Stdout: true}, scheme.ParameterCodec).URL()
	primary, err := remotecommand.NewWebSocketExecutorForProtocols(w.config, "GET", location.String(), "v9.channel.k8s.io")
	if err != nil {
		return err
	}
	secondary, err := spdyStream(w, location)
	if err != nil {
		return err
	}
	fell := false
	both, err := remotecommand.NewFallbackExecutor(primary, secondary, func(error) bool { fell = true; return true })
	if err != nil {
		return err
	}
	var out bytes.Buffer
	err = both.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})
	return first(err, want("fell back", fell, true), want("out", out.String(), "x\n"))
}

func cancelled(ctx context.Context, w way) error {
	run := func(make maker) error {
		return over(make, func(ctx context.Context, run runner) error {
			limited, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			err := run(limited, remotecommand.StreamOptions{Stdout: io.Discard}, "sleep", "1000")
			if !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("%v", err)
			}
			return nil
		})(ctx, w)
	}
	return first(run(websocket), run(spdyStream))
}

func logs(ctx context.Context, w way) error {
	get := func(options corev1.PodLogOptions) (string, error) {
		options.Container = w.container
		text, err := w.client.CoreV1().Pods(namespace).GetLogs(w.pod, &options).DoRaw(ctx)
		return string(text), err
	}
	two, bytes4 := int64(2), int64(4)
	all, err := get(corev1.PodLogOptions{})
	if err != nil || !strings.HasPrefix(all, "begin\n") {
		return fmt.Errorf("%.200q %v", all, err)
	}
	tail, err := get(corev1.PodLogOptions{TailLines: &two})
	if err := first(err, want("lines", strings.Count(tail, "\n"), 2)); err != nil {
		return err
	}
	some, err := get(corev1.PodLogOptions{LimitBytes: &bytes4})
	if err := first(err, want("bytes", some, "begi")); err != nil {
		return err
	}
	stamped, err := get(corev1.PodLogOptions{Timestamps: true, TailLines: &two})
	if err != nil {
		return err
	}
	if _, err := time.Parse(time.RFC3339Nano, strings.Fields(stamped)[0]); err != nil {
		return err
	}
	now := metav1.NewTime(time.Now().Add(time.Hour))
	later, err := get(corev1.PodLogOptions{SinceTime: &now})
	if err := first(err, want("of the future", later, "")); err != nil {
		return err
	}
	stream, err := w.client.CoreV1().Pods(namespace).GetLogs(w.pod, &corev1.PodLogOptions{Container: w.container, Follow: true, TailLines: &two}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	seen := 0
	buffer := make([]byte, 1000)
	for seen < 4 {
		n, err := stream.Read(buffer)
		seen += bytes.Count(buffer[:n], []byte("\n"))
		if err != nil {
			return fmt.Errorf("after %d lines: %w", seen, err)
		}
	}
	if _, err = get(corev1.PodLogOptions{Previous: true}); err == nil {
		return fmt.Errorf("a container that never ran before has logs")
	}
	return nil
}

func forward(websockets bool) func(context.Context, way) error {
	return func(ctx context.Context, w way) error {
		location := w.client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(w.pod).SubResource("portforward").URL()
		transport, upgrader, err := spdy.RoundTripperFor(w.config)
		if err != nil {
			return err
		}
		dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", location)
		if websockets {
			if dialer, err = portforward.NewSPDYOverWebsocketDialer(location, w.config); err != nil {
				return err
			}
		}
		stop, ready := make(chan struct{}), make(chan struct{})
		forwarder, err := portforward.New(dialer, []string{"0:" + w.port, "0:9"}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-ended:
			return fmt.Errorf("not ready: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("never ready")
		}
		ports, err := forwarder.GetPorts()
		if err != nil {
			return err
		}
		errs := make(chan error, 5)
		for i := range cap(errs) {
			go func() { errs <- echo(ports[0].Local, bytes.Repeat([]byte{byte('a' + i)}, 300_000)) }()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				return err
			}
		}
		// Where nobody listens: that connection ends.
		closed, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[1].Local))
		if err != nil {
			return err
		}
		closed.SetDeadline(time.Now().Add(20 * time.Second))
		if n, err := closed.Read(make([]byte, 1)); n != 0 || err == nil {
			return fmt.Errorf("a port where nobody listens answers: %d %v", n, err)
		}
		// The client gives the whole up when it is told of one, which it is.
		if err := <-ended; !errors.Is(err, portforward.ErrLostConnectionToPod) {
			return fmt.Errorf("the end: %v", err)
		}
		return nil
	}
}

func echo(port uint16, sent []byte) error {
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(30 * time.Second))
	go connection.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(connection, got); err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	return want("echo", bytes.Equal(got, sent), true)
}
