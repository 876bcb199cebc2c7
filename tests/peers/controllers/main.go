// Command controllers uses an API server as controllers do, by client-go alone, and prints a line for each thing that holds:
//
//	controllers KUBECONFIG    ->  "ok NAME" or "FAIL NAME: what was seen instead"
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/record"
	watchtools "k8s.io/client-go/tools/watch"
	certutil "k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/retry"
)

const namespace = "peers"

var (
	secretsResource = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	noOptions       = metav1.CreateOptions{}
)

// peer has what every check needs.
type peer struct {
	config *rest.Config
	client kubernetes.Interface
	log    *requestLog
}

// requestLog writes down which requests went out.
type requestLog struct {
	mutex sync.Mutex
	lines []string
}

func (l *requestLog) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		l.mutex.Lock()
		l.lines = append(l.lines, request.Method+" "+request.URL.RequestURI())
		l.mutex.Unlock()
		return next.RoundTrip(request)
	})
}

func (l *requestLog) with(parts ...string) []string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	var found []string
	for _, line := range l.lines {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			found = append(found, line)
		}
	}
	return found
}

func (l *requestLog) clear() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.lines = nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

type check struct {
	name string
	do   func(context.Context, *peer) error
}

var checks = []check{
	{"discovery is aggregated", aggregatedDiscovery},
	{"kinds and resources are mapped", mapper},
	{"openapi v3 of every group", openAPI},
	{"informer by streaming list", informerByWatchList},
	{"informer in protobuf", informerInProtobuf},
	{"informer by lists", informerByList},
	{"dynamic informer", dynamicInformer},
	{"metadata informer", metadataInformer},
	{"initial events end with a bookmark", initialEventsEnd},
	{"expired watch lists again", relistAfterExpiry},
	{"retry watcher resumes", retryWatcher},
	{"watch ends at its timeout", watchTimeout},
	{"lists in chunks", chunks},
	{"resource versions of lists", listVersions},
	{"selectors", selectors},
	{"tables", table},
	{"create update conflict", conflict},
	{"patches", patches},
	{"apply with configurations", apply},
	{"dry run", dryRun},
	{"status and subresources", subresources},
	{"garbage collection and finalizers", garbage},
	{"delete collection with preconditions", deletion},
	{"leader election", leaderElection},
	{"token request and review", tokens},
	{"access reviews and impersonation", access},
	{"certificate by request", certificate},
	{"eviction", eviction},
	{"recorded events", recorders},
	{"media types", mediaTypes},
	{"namespace is emptied", namespaceDeletion},
}

func main() {
	// Panics when a streaming list and a list differ.
	os.Setenv("KUBE_WATCHLIST_INCONSISTENCY_DETECTOR", "true")
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	config.QPS, config.Burst = 1000, 1000
	log := &requestLog{}
	config.Wrap(log.wrap)
	p := &peer{config, kubernetes.NewForConfigOrDie(config), log}
	ctx := context.Background()
	if _, err := p.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, noOptions); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	failed := 0
	for _, each := range checks {
		if len(os.Args) > 2 && !strings.Contains(each.name, os.Args[2]) {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, 40*time.Second)
		err := each.do(limited, p)
		cancel()
		if err == nil {
			fmt.Println("ok", each.name)
		} else {
			failed++
			fmt.Printf("FAIL %s: %s\n", each.name, strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}

func secret(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"peer": name}}, Data: map[string][]byte{"k": []byte("v")}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func want[T comparable](what string, got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("%s: %v instead of %v", what, got, wanted)
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

func eventually(ctx context.Context, what string, is func() (bool, error)) error {
	var last error
	for ctx.Err() == nil {
		done, err := is()
		if done {
			return nil
		}
		last = err
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("never: %s (%v)", what, last)
}

// --- discovery --------------------------------------------------------------------------------------------------------

func aggregatedDiscovery(_ context.Context, p *peer) error {
	p.log.clear()
	client := discovery.NewDiscoveryClientForConfigOrDie(p.config)
	groups, resources, err := client.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	if len(groups) < 4 || len(resources) < 5 {
		return fmt.Errorf("%d groups, %d versions", len(groups), len(resources))
	}
	if sent := p.log.with("GET"); len(sent) != 2 {
		return fmt.Errorf("not one request for each of /api and /apis: %v", sent)
	}
	legacy := client.WithLegacy()
	_, plain, err := legacy.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	names := func(lists []*metav1.APIResourceList) string {
		var found []string
		for _, list := range lists {
			for _, r := range list.APIResources {
				if strings.Contains(r.Name, "/") {
					r.SingularName = "" // the client makes one up of the aggregated form
				}
				verbs := slices.Clone([]string(r.Verbs))
				sort.Strings(verbs)
				found = append(found, fmt.Sprint(list.GroupVersion, r.Name, r.Kind, r.Namespaced, verbs, r.ShortNames, r.Categories, r.SingularName))
			}
		}
		sort.Strings(found)
		return strings.Join(found, "\n")
	}
	return want("unaggregated discovery", names(plain), names(resources))
}

func mapper(_ context.Context, p *peer) error {
	m := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(p.config)))
	expanded := restmapper.NewShortcutExpander(m, memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(p.config)), nil)
	kind, err := expanded.KindFor(schema.GroupVersionResource{Resource: "cm"})
	if err != nil {
		return err
	}
	mapping, err := m.RESTMapping(schema.GroupKind{Group: "coordination.k8s.io", Kind: "Lease"})
	if err != nil {
		return err
	}
	return first(want("cm", kind.Kind, "ConfigMap"), want("Lease", mapping.Resource.Resource, "leases"),
		want("scope", mapping.Scope.Name(), meta.RESTScopeNameNamespace))
}

func openAPI(_ context.Context, p *peer) error {
	root := openapi3.NewRoot(discovery.NewDiscoveryClientForConfigOrDie(p.config).OpenAPIV3())
	versions, err := root.GroupVersions()
	if err != nil {
		return err
	}
	if len(versions) < 5 {
		return fmt.Errorf("only %v", versions)
	}
	for _, version := range versions {
		spec, err := root.GVSpec(version)
		if err != nil {
			return fmt.Errorf("%v: %w", version, err)
		}
		if len(spec.Paths.Paths) == 0 || len(spec.Components.Schemas) == 0 {
			return fmt.Errorf("%v: empty", version)
		}
	}
	return nil
}

// --- informers --------------------------------------------------------------------------------------------------------

// follow runs an informer through the life of one object.
func follow(ctx context.Context, p *peer, informer cache.SharedIndexInformer, name string) error {
	var mutex sync.Mutex
	seen := []string{}
	note := func(kind string, obj any) {
		if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = tombstone.Obj
		}
		if m, err := meta.Accessor(obj); err == nil && m.GetName() == name {
			mutex.Lock()
			seen = append(seen, kind)
			mutex.Unlock()
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { note("add", obj) }, DeleteFunc: func(obj any) { note("delete", obj) },
		UpdateFunc: func(old, obj any) {
			a, _ := meta.Accessor(old)
			b, _ := meta.Accessor(obj)
			if a.GetResourceVersion() != b.GetResourceVersion() {
				note("update", obj)
			}
		}})
	if err != nil {
		return err
	}
	secrets := p.client.CoreV1().Secrets(namespace)
	before, err := secrets.Create(ctx, secret(name+"-before"), noOptions)
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	go informer.RunWithContext(running)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return fmt.Errorf("did not sync")
	}
	if _, exists, _ := informer.GetStore().GetByKey(namespace + "/" + before.Name); !exists {
		return fmt.Errorf("synced without what was there")
	}
	made, err := secrets.Create(ctx, secret(name), noOptions)
	if err != nil {
		return err
	}
	made.Data["more"] = []byte("x")
	if _, err = secrets.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err = secrets.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return eventually(ctx, "add update delete", func() (bool, error) {
		mutex.Lock()
		defer mutex.Unlock()
		return slices.Equal(seen, []string{"add", "update", "delete"}), fmt.Errorf("%v", seen)
	})
}

func factory(client kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, time.Second, informers.WithNamespace(namespace))
}

func informerByWatchList(ctx context.Context, p *peer) error {
	p.log.clear()
	if err := follow(ctx, p, factory(p.client).Core().V1().Secrets().Informer(), "streamed"); err != nil {
		return err
	}
	streams := p.log.with("GET", "/secrets?", "sendInitialEvents=true")
	if len(streams) != 1 {
		return fmt.Errorf("no streaming list: %v", p.log.with("GET", "/secrets"))
	}
	return nil
}

func informerInProtobuf(ctx context.Context, p *peer) error {
	config := rest.CopyConfig(p.config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client := kubernetes.NewForConfigOrDie(config)
	binary := &peer{config, client, p.log}
	return follow(ctx, binary, factory(client).Core().V1().Secrets().Informer(), "protobuf")
}

func informerByList(ctx context.Context, p *peer) error {
	source := cache.NewListWatchFromClient(p.client.CoreV1().RESTClient(), "secrets", namespace, fields.Everything())
	p.log.clear()
	// Hidden behind a wrapper that cannot stream.
	if err := follow(ctx, p, cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(source, unable{}), &corev1.Secret{}, 0, cache.Indexers{}), "listed"); err != nil {
		return err
	}
	if sent := p.log.with("sendInitialEvents"); len(sent) > 0 {
		return fmt.Errorf("streamed after all: %v", sent)
	}
	return nil
}

type unable struct{}

func (unable) IsWatchListSemanticsUnSupported() bool { return true }

func dynamicInformer(ctx context.Context, p *peer) error {
	client := dynamic.NewForConfigOrDie(p.config)
	return follow(ctx, p, dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, namespace, nil).ForResource(secretsResource).Informer(), "dynamic")
}

func metadataInformer(ctx context.Context, p *peer) error {
	client := metadata.NewForConfigOrDie(p.config)
	informer := metadatainformer.NewFilteredSharedInformerFactory(client, 0, namespace, nil).ForResource(secretsResource).Informer()
	if err := follow(ctx, p, informer, "metadata"); err != nil {
		return err
	}
	found, err := client.Resource(secretsResource).Namespace(namespace).Get(ctx, "metadata-before", metav1.GetOptions{})
	if err := first(err, want("label", found.Labels["peer"], "metadata-before")); err != nil {
		return err
	}
	raw, err := p.client.CoreV1().RESTClient().Get().Namespace(namespace).Resource("secrets").Name("metadata-before").
		SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").DoRaw(ctx)
	return first(err, want("kind", bytes.Contains(raw, []byte(`"kind":"PartialObjectMetadata"`)), true), want("data", bytes.Contains(raw, []byte(`"data"`)), false))
}

func initialEventsEnd(ctx context.Context, p *peer) error {
	yes := true
	w, err := p.client.CoreV1().Secrets(namespace).Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Bookmark {
			m, _ := meta.Accessor(event.Object)
			if _, ok := event.Object.(*corev1.Secret); !ok {
				return fmt.Errorf("a %T", event.Object)
			}
			return want("annotation", m.GetAnnotations()[metav1.InitialEventsAnnotationKey], "true")
		}
		if event.Type != watch.Added {
			return fmt.Errorf("%s", event.Type)
		}
	}
	return fmt.Errorf("no bookmark")
}

func relistAfterExpiry(ctx context.Context, p *peer) error {
	secrets := p.client.CoreV1().Secrets(namespace)
	w, err := secrets.Watch(ctx, metav1.ListOptions{ResourceVersion: "1"})
	if err == nil {
		event := <-w.ResultChan()
		w.Stop()
		err = apierrors.FromObject(event.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		return fmt.Errorf("an old version: %v", err)
	}
	var watches, lists atomic.Int32
	source := &cache.ListWatch{
		ListFunc: func(o metav1.ListOptions) (runtime.Object, error) { lists.Add(1); return secrets.List(ctx, o) },
		WatchFunc: func(o metav1.ListOptions) (watch.Interface, error) {
			if watches.Add(1) == 1 {
				o.ResourceVersion = "1"
			}
			return secrets.Watch(ctx, o)
		}}
	informer := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(source, unable{}), &corev1.Secret{}, 0, cache.Indexers{})
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	go informer.RunWithContext(running)
	if err := eventually(ctx, "a second list and watch", func() (bool, error) { return lists.Load() == 2 && watches.Load() == 2, nil }); err != nil {
		return err
	}
	if _, err := secrets.Create(ctx, secret("expired"), noOptions); err != nil {
		return err
	}
	return eventually(ctx, "seen", func() (bool, error) {
		_, exists, err := informer.GetStore().GetByKey(namespace + "/expired")
		return exists, err
	})
}

func retryWatcher(ctx context.Context, p *peer) error {
	secrets := p.client.CoreV1().Secrets(namespace)
	list, err := secrets.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	source := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		one := int64(1)
		o.TimeoutSeconds = &one
		return secrets.Watch(ctx, o)
	}}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, source)
	if err != nil {
		return err
	}
	defer w.Stop()
	for i := range 3 {
		name := fmt.Sprintf("resumed-%d", i)
		if _, err := secrets.Create(ctx, secret(name), noOptions); err != nil {
			return err
		}
		event := <-w.ResultChan()
		m, err := meta.Accessor(event.Object)
		if err != nil {
			return fmt.Errorf("%s %v", event.Type, apierrors.FromObject(event.Object))
		}
		if err := want("event", m.GetName(), name); err != nil {
			return err
		}
		time.Sleep(700 * time.Millisecond)
	}
	return nil
}

func watchTimeout(ctx context.Context, p *peer) error {
	one := int64(1)
	w, err := p.client.CoreV1().Secrets("default").Watch(ctx, metav1.ListOptions{TimeoutSeconds: &one, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return apierrors.FromObject(event.Object)
		}
	}
	return ctx.Err()
}

// --- lists ------------------------------------------------------------------------------------------------------------

func chunks(ctx context.Context, p *peer) error {
	maps := p.client.CoreV1().ConfigMaps(namespace)
	for i := range 7 {
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("chunk-%d", i), Labels: map[string]string{"in": "chunks"}}}, noOptions); err != nil {
			return err
		}
	}
	page, err := maps.List(ctx, metav1.ListOptions{Limit: 3})
	if err != nil {
		return err
	}
	if page.Continue == "" || page.RemainingItemCount == nil || *page.RemainingItemCount != 5 { // and kube-root-ca.crt
		return fmt.Errorf("first page: %+v", page.ListMeta)
	}
	next, err := maps.List(ctx, metav1.ListOptions{Limit: 3, Continue: page.Continue})
	if err != nil {
		return err
	}
	if err := want("version", next.ResourceVersion, page.ResourceVersion); err != nil {
		return err
	}
	_, err = maps.List(ctx, metav1.ListOptions{Limit: 3, Continue: page.Continue, ResourceVersion: "5"})
	if !apierrors.IsBadRequest(err) {
		return fmt.Errorf("continue with a version: %v", err)
	}
	_, err = maps.List(ctx, metav1.ListOptions{Limit: 3, Continue: "nonsense"})
	if !apierrors.IsBadRequest(err) {
		return fmt.Errorf("nonsense: %v", err)
	}
	count := 0
	pages := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) }))
	pages.PageSize = 2
	err = pages.EachListItem(ctx, metav1.ListOptions{LabelSelector: "in=chunks"}, func(runtime.Object) error { count++; return nil })
	return first(err, want("items", count, 7))
}

func listVersions(ctx context.Context, p *peer) error {
	secrets := p.client.CoreV1().Secrets(namespace)
	now, err := secrets.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if _, err = secrets.Create(ctx, secret("later"), noOptions); err != nil {
		return err
	}
	exact, err := secrets.List(ctx, metav1.ListOptions{ResourceVersion: now.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err != nil {
		return err
	}
	for _, options := range []metav1.ListOptions{{ResourceVersion: "0"}, {ResourceVersion: now.ResourceVersion}, {ResourceVersion: now.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}} {
		if _, err := secrets.List(ctx, options); err != nil {
			return fmt.Errorf("%+v: %w", options, err)
		}
	}
	_, err = secrets.List(ctx, metav1.ListOptions{ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if !apierrors.IsInvalid(err) {
		return fmt.Errorf("match without version: %v", err)
	}
	_, err = secrets.List(ctx, metav1.ListOptions{ResourceVersion: "0", ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if !apierrors.IsInvalid(err) {
		return fmt.Errorf("exact zero: %v", err)
	}
	_, err = secrets.List(ctx, metav1.ListOptions{ResourceVersion: "9223372036854775000"})
	if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		return fmt.Errorf("the future: %v", err)
	}
	_, err = secrets.List(ctx, metav1.ListOptions{ResourceVersion: "x"})
	if !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err) {
		return fmt.Errorf("no number: %v", err)
	}
	_, err = secrets.Get(ctx, "later", metav1.GetOptions{ResourceVersion: "0"})
	return first(err, want("exact", len(exact.Items), len(now.Items)), want("exact", exact.ResourceVersion, now.ResourceVersion))
}

func selectors(ctx context.Context, p *peer) error {
	count := func(labels, fields string) (int, error) {
		found, err := p.client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels, FieldSelector: fields})
		if err != nil {
			return 0, err
		}
		return len(found.Items), nil
	}
	if _, err := p.client.CoreV1().Secrets(namespace).Create(ctx, secret("chosen"), noOptions); err != nil {
		return err
	}
	for _, each := range []struct {
		labels, fields string
		wanted         int
	}{{"peer=chosen", "", 1}, {"peer in (chosen,none)", "", 1}, {"peer,!absent,peer notin (x)", "metadata.name=chosen", 1}, {"", "metadata.name=chosen,type=Opaque", 1},
		{"", "metadata.name!=chosen,metadata.name=chosen", 0}, {"", "metadata.namespace=other", 0}} {
		got, err := count(each.labels, each.fields)
		if err := first(err, want(each.labels+";"+each.fields, got, each.wanted)); err != nil {
			return err
		}
	}
	if _, err := count("", "data.k=v"); !apierrors.IsBadRequest(err) {
		return fmt.Errorf("unsupported field: %v", err)
	}
	if _, err := count("a b", ""); !apierrors.IsBadRequest(err) {
		return fmt.Errorf("nonsense: %v", err)
	}
	return nil
}

func table(ctx context.Context, p *peer) error {
	found := &metav1.Table{}
	err := p.client.CoreV1().RESTClient().Get().Namespace(namespace).Resource("secrets").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io, application/json").Do(ctx).Into(found)
	if err != nil {
		return err
	}
	if len(found.Rows) == 0 || len(found.Rows[0].Cells) != len(found.ColumnDefinitions) {
		return fmt.Errorf("%d rows of %d columns", len(found.Rows), len(found.ColumnDefinitions))
	}
	row := &metav1.PartialObjectMetadata{}
	if err := runtime.DecodeInto(scheme.Codecs.UniversalDecoder(metav1.SchemeGroupVersion), found.Rows[0].Object.Raw, row); err != nil {
		return err
	}
	return want("row", row.Namespace, namespace)
}

// --- writes -----------------------------------------------------------------------------------------------------------

func conflict(ctx context.Context, p *peer) error {
	secrets := p.client.CoreV1().Secrets(namespace)
	old, err := secrets.Create(ctx, secret("contended"), noOptions)
	if err != nil {
		return err
	}
	if _, err = secrets.Create(ctx, secret("contended"), noOptions); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("again: %v", err)
	}
	same, err := secrets.Update(ctx, old, metav1.UpdateOptions{})
	if err := first(err, want("version after no change", same.ResourceVersion, old.ResourceVersion)); err != nil {
		return err
	}
	var group sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		group.Go(func() {
			errs[i] = retry.RetryOnConflict(wait5, func() error {
				obj, err := secrets.Get(ctx, "contended", metav1.GetOptions{})
				if err != nil {
					return err
				}
				obj.Data[fmt.Sprint("n", i)] = nil
				_, err = secrets.Update(ctx, obj, metav1.UpdateOptions{})
				return err
			})
		})
	}
	group.Wait()
	if err := first(errs...); err != nil {
		return err
	}
	if _, err = secrets.Update(ctx, old, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		return err
	}
	old.Data["stale"] = nil
	if _, err = secrets.Update(ctx, old, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("stale: %v", err)
	}
	found, err := secrets.Get(ctx, "contended", metav1.GetOptions{})
	return first(err, want("keys", len(found.Data), 6))
}

var wait5 = wait.Backoff{Steps: 30, Duration: 10 * time.Millisecond, Factor: 1.0, Jitter: 0.5}

func patches(ctx context.Context, p *peer) error {
	pods := p.client.CoreV1().Pods(namespace)
	made := pod("patched")
	made.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}}
	if _, err := pods.Create(ctx, made, noOptions); err != nil {
		return err
	}
	strategic := []byte(`{"metadata":{"labels":{"a":"1"}},"spec":{"containers":[{"name":"c","image":"j"}]}}`)
	got, err := pods.Patch(ctx, "patched", types.StrategicMergePatchType, strategic, metav1.PatchOptions{})
	if err := first(err, want("image", got.Spec.Containers[0].Image, "j"), want("env", len(got.Spec.Containers[0].Env), 1)); err != nil {
		return err
	}
	got, err = pods.Patch(ctx, "patched", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":null,"b":"2"}}}`), metav1.PatchOptions{})
	if err := first(err, want("labels", fmt.Sprint(got.Labels), "map[b:2]")); err != nil {
		return err
	}
	got, err = pods.Patch(ctx, "patched", types.JSONPatchType, []byte(`[{"op":"test","path":"/metadata/labels/b","value":"2"},{"op":"add","path":"/metadata/labels/c","value":"3"}]`), metav1.PatchOptions{})
	if err := first(err, want("labels", fmt.Sprint(got.Labels), "map[b:2 c:3]")); err != nil {
		return err
	}
	_, err = pods.Patch(ctx, "patched", types.JSONPatchType, []byte(`[{"op":"test","path":"/metadata/labels/b","value":"9"}]`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) {
		return fmt.Errorf("failed test: %v", err)
	}
	_, err = pods.Patch(ctx, "patched", types.MergePatchType, []byte(`{"metadata":{"resourceVersion":"1"}}`), metav1.PatchOptions{})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("stale: %v", err)
	}
	return nil
}

func apply(ctx context.Context, p *peer) error {
	secrets := p.client.CoreV1().Secrets(namespace)
	one := metav1.ApplyOptions{FieldManager: "one"}
	wanted := applycorev1.Secret("applied", namespace).WithLabels(map[string]string{"a": "1"}).WithData(map[string][]byte{"k": []byte("1"), "l": []byte("1")})
	made, err := secrets.Apply(ctx, wanted, one)
	if err != nil {
		return err
	}
	again, err := secrets.Apply(ctx, wanted, one)
	if err := first(err, want("version", again.ResourceVersion, made.ResourceVersion)); err != nil {
		return err
	}
	// The real structured-merge-diff reads the managed fields.
	extracted, err := applycorev1.ExtractSecret(again, "one")
	if err != nil {
		return fmt.Errorf("extract: %w", err)
	}
	if err := first(want("extracted", fmt.Sprint(extracted.Data), fmt.Sprint(wanted.Data)), want("extracted", fmt.Sprint(extracted.Labels), "map[a:1]")); err != nil {
		return err
	}
	other := applycorev1.Secret("applied", namespace).WithData(map[string][]byte{"k": []byte("2")})
	_, err = secrets.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "two"})
	if !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return fmt.Errorf("conflict: %v", err)
	}
	forced, err := secrets.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err := first(err, want("forced", string(forced.Data["k"]), "2")); err != nil {
		return err
	}
	delete(wanted.Data, "l")
	delete(wanted.Data, "k")
	left, err := secrets.Apply(ctx, wanted, one)
	if err := first(err, want("keys", len(left.Data), 1)); err != nil {
		return err
	}
	pods := p.client.CoreV1().Pods(namespace)
	container := applycorev1.Container().WithName("c").WithImage("i").WithEnv(applycorev1.EnvVar().WithName("A").WithValue("1")).
		WithPorts(applycorev1.ContainerPort().WithContainerPort(80))
	if _, err = pods.Apply(ctx, applycorev1.Pod("applied", namespace).WithSpec(applycorev1.PodSpec().WithContainers(container)), one); err != nil {
		return err
	}
	status := applycorev1.Pod("applied", namespace).WithStatus(applycorev1.PodStatus().WithMessage("m"))
	got, err := pods.ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: "node", Force: true})
	if err := first(err, want("status", got.Status.Message, "m")); err != nil {
		return err
	}
	found, err := applycorev1.ExtractPod(got, "one")
	if err != nil {
		return fmt.Errorf("extract a pod: %w", err)
	}
	if len(found.Spec.Containers) != 1 || len(found.Spec.Containers[0].Ports) != 1 || len(found.Spec.Containers[0].Env) != 1 {
		return fmt.Errorf("extracted %+v", found.Spec)
	}
	reported, err := applycorev1.ExtractPodStatus(got, "node")
	return first(err, want("extracted status", *reported.Status.Message, "m"))
}

func dryRun(ctx context.Context, p *peer) error {
	all := []string{metav1.DryRunAll}
	secrets := p.client.CoreV1().Secrets(namespace)
	made, err := secrets.Create(ctx, secret("dry"), metav1.CreateOptions{DryRun: all})
	if err := first(err, want("type", made.Type, corev1.SecretTypeOpaque)); err != nil {
		return err
	}
	if _, err = secrets.Get(ctx, "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("created: %v", err)
	}
	kept, err := secrets.Create(ctx, secret("dry"), noOptions)
	if err != nil {
		return err
	}
	kept.Data["x"] = nil
	if _, err = secrets.Update(ctx, kept, metav1.UpdateOptions{DryRun: all}); err != nil {
		return err
	}
	if _, err = secrets.Patch(ctx, "dry", types.MergePatchType, []byte(`{"data":{"y":""}}`), metav1.PatchOptions{DryRun: all}); err != nil {
		return err
	}
	if err = secrets.Delete(ctx, "dry", metav1.DeleteOptions{DryRun: all}); err != nil {
		return err
	}
	found, err := secrets.Get(ctx, "dry", metav1.GetOptions{})
	if err := first(err, want("keys", len(found.Data), 1)); err != nil {
		return err
	}
	_, err = secrets.Create(ctx, secret("strict"), metav1.CreateOptions{DryRun: []string{"Some"}})
	if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
		return fmt.Errorf("another dry run: %v", err)
	}
	return nil
}

func subresources(ctx context.Context, p *peer) error {
	pods := p.client.CoreV1().Pods(namespace)
	made, err := pods.Create(ctx, pod("status"), noOptions)
	if err != nil {
		return err
	}
	made.Status.Conditions = []corev1.PodCondition{{Type: "peers.example.com/gate", Status: corev1.ConditionTrue}}
	made.Labels = map[string]string{"a": "b"}
	got, err := pods.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	if err := first(err, want("conditions", len(got.Status.Conditions) > 0, true)); err != nil {
		return err
	}
	got.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "i", TerminationMessagePolicy: corev1.TerminationMessageReadFile}}}
	got, err = pods.UpdateEphemeralContainers(ctx, "status", got, metav1.UpdateOptions{})
	if err := first(err, want("ephemeral containers", len(got.Spec.EphemeralContainers), 1)); err != nil {
		return err
	}
	err = pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "status"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, noOptions)
	if err != nil {
		return err
	}
	got, err = pods.Get(ctx, "status", metav1.GetOptions{})
	return first(err, want("node", got.Spec.NodeName, "n"))
}

func garbage(ctx context.Context, p *peer) error {
	secrets, maps := p.client.CoreV1().Secrets(namespace), p.client.CoreV1().ConfigMaps(namespace)
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		name := strings.ToLower(string(policy))
		owner, err := secrets.Create(ctx, secret(name), noOptions)
		if err != nil {
			return err
		}
		yes := true
		reference := metav1.OwnerReference{APIVersion: "v1", Kind: "Secret", Name: name, UID: owner.UID, BlockOwnerDeletion: &yes}
		if _, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{reference}}}, noOptions); err != nil {
			return err
		}
		if err = secrets.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
			return err
		}
		err = eventually(ctx, name, func() (bool, error) {
			_, ownerErr := secrets.Get(ctx, name, metav1.GetOptions{})
			found, err := maps.Get(ctx, name, metav1.GetOptions{})
			if policy == metav1.DeletePropagationOrphan {
				return apierrors.IsNotFound(ownerErr) && err == nil && len(found.OwnerReferences) == 0, err
			}
			return apierrors.IsNotFound(ownerErr) && apierrors.IsNotFound(err), err
		})
		if err != nil {
			return err
		}
	}
	held := secret("held")
	held.Finalizers = []string{"peers.example.com/hold"}
	if _, err := secrets.Create(ctx, held, noOptions); err != nil {
		return err
	}
	if err := secrets.Delete(ctx, "held", metav1.DeleteOptions{}); err != nil {
		return err
	}
	found, err := secrets.Get(ctx, "held", metav1.GetOptions{})
	if err := first(err, want("is going", found.DeletionTimestamp != nil, true)); err != nil {
		return err
	}
	found.Finalizers = nil
	if _, err = secrets.Update(ctx, found, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if _, err = secrets.Get(ctx, "held", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("held on: %v", err)
	}
	return nil
}

func deletion(ctx context.Context, p *peer) error {
	maps := p.client.CoreV1().ConfigMaps(namespace)
	uid, version := types.UID("other"), "1"
	if err := maps.Delete(ctx, "chunk-0", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); !apierrors.IsConflict(err) {
		return fmt.Errorf("uid: %v", err)
	}
	if err := maps.Delete(ctx, "chunk-0", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}}); !apierrors.IsConflict(err) {
		return fmt.Errorf("version: %v", err)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "in=chunks"}); err != nil {
		return err
	}
	left, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "in=chunks"})
	return first(err, want("left", len(left.Items), 0))
}

func namespaceDeletion(ctx context.Context, p *peer) error {
	spaces := p.client.CoreV1().Namespaces()
	if err := spaces.Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		return err
	}
	_, err := p.client.CoreV1().Secrets(namespace).Create(ctx, secret("late"), noOptions)
	if err == nil || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("created in a namespace that goes: %v", err)
	}
	// Its pods are on a node that is none: they go by force.
	zero := int64(0)
	_ = p.client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{})
	return eventually(ctx, "gone", func() (bool, error) {
		_, err := spaces.Get(ctx, namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}

// --- what else controllers and nodes do -------------------------------------------------------------------------------

func leaderElection(ctx context.Context, p *peer) error {
	var mutex sync.Mutex
	order := []string{}
	candidate := func(ctx context.Context, name string, lead func(context.Context)) {
		lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Name: "leader", Namespace: namespace}, Client: p.client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: name}}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{OnStoppedLeading: func() {}, OnStartedLeading: func(ctx context.Context) {
				mutex.Lock()
				order = append(order, name)
				mutex.Unlock()
				lead(ctx)
			}}})
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	led := make(chan struct{})
	done := make(chan struct{})
	leading, giveUp := context.WithCancel(running)
	go func() { candidate(leading, "a", func(context.Context) { close(led) }); close(done) }()
	<-led
	won := make(chan struct{})
	go candidate(running, "b", func(context.Context) { close(won) })
	time.Sleep(500 * time.Millisecond)
	giveUp()
	<-done
	select {
	case <-won:
	case <-ctx.Done():
		return fmt.Errorf("the second never led: %v", order)
	}
	lease, err := p.client.CoordinationV1().Leases(namespace).Get(ctx, "leader", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return first(want("holder", *lease.Spec.HolderIdentity, "b"), want("order", strings.Join(order, ""), "ab"))
}

func tokens(ctx context.Context, p *peer) error {
	accounts := p.client.CoreV1().ServiceAccounts(namespace)
	hour := int64(3600)
	bound, err := p.client.CoreV1().Pods(namespace).Create(ctx, pod("bound"), noOptions)
	if err != nil {
		return err
	}
	asked := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}, ExpirationSeconds: &hour,
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: bound.Name, UID: bound.UID}}}
	given, err := accounts.CreateToken(ctx, "default", asked, noOptions)
	if err != nil {
		return err
	}
	review := func(audiences ...string) (*authenticationv1.TokenReview, error) {
		return p.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: given.Status.Token, Audiences: audiences}}, noOptions)
	}
	good, err := review("vault", "other")
	if err := first(err, want("authenticated", good.Status.Authenticated, true), want("audiences", fmt.Sprint(good.Status.Audiences), "[vault]"),
		want("user", good.Status.User.Username, "system:serviceaccount:"+namespace+":default"),
		want("pod", fmt.Sprint(good.Status.User.Extra["authentication.kubernetes.io/pod-name"]), "[bound]")); err != nil {
		return err
	}
	bad, err := review()
	if err := first(err, want("for the API", bad.Status.Authenticated, false)); err != nil {
		return err
	}
	zero := int64(0)
	if err := p.client.CoreV1().Pods(namespace).Delete(ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		return err
	}
	gone, err := review("vault")
	if err := first(err, want("after its pod", gone.Status.Authenticated, false)); err != nil {
		return err
	}
	own, err := accounts.CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, noOptions)
	if err != nil {
		return err
	}
	config := rest.AnonymousClientConfig(p.config)
	config.BearerToken = own.Status.Token
	me, err := kubernetes.NewForConfigOrDie(config).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, noOptions)
	if err := first(err, want("me", me.Status.UserInfo.Username, "system:serviceaccount:"+namespace+":default")); err != nil {
		return err
	}
	config.BearerToken = "nonsense"
	_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{})
	if !apierrors.IsUnauthorized(err) {
		return fmt.Errorf("nonsense: %v", err)
	}
	return nil
}

func access(ctx context.Context, p *peer) error {
	if _, err := p.client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"chosen"}, Verbs: []string{"get"}}}}, noOptions); err != nil {
		return err
	}
	if _, err := p.client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "jane"}}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"}}, noOptions); err != nil {
		return err
	}
	attributes := &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "secrets", Name: "chosen"}
	review, err := p.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "jane", ResourceAttributes: attributes}}, noOptions)
	if err := first(err, want("jane", review.Status.Allowed, true)); err != nil {
		return err
	}
	config := rest.CopyConfig(p.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "jane", Groups: []string{"dev"}, Extra: map[string][]string{"Why/Not": {"x"}}}
	jane := kubernetes.NewForConfigOrDie(config)
	if _, err = jane.CoreV1().Secrets(namespace).Get(ctx, "chosen", metav1.GetOptions{}); err != nil {
		return err
	}
	_, err = jane.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "jane" cannot list resource "secrets" in API group "" in the namespace "`+namespace+`"`) {
		return fmt.Errorf("list: %v", err)
	}
	rules, err := jane.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, noOptions)
	if err := first(err, want("rules", slices.ContainsFunc(rules.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool { return slices.Equal(r.ResourceNames, []string{"chosen"}) }), true)); err != nil {
		return err
	}
	me, err := jane.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, noOptions)
	return first(err, want("me", me.Status.UserInfo.Username, "jane"), want("extra", fmt.Sprint(me.Status.UserInfo.Extra["why/not"]), "[x]"))
}

func certificate(ctx context.Context, p *peer) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "joe", Organization: []string{"dev"}}}, key)
	if err != nil {
		return err
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	hour := time.Hour
	name, uid, err := certutil.RequestCertificateWithContext(ctx, p.client, request, "", certificatesv1.KubeAPIServerClientSignerName, &hour, usages, key)
	if err != nil {
		return err
	}
	requests := p.client.CertificatesV1().CertificateSigningRequests()
	found, err := requests.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	found.Status.Conditions = append(found.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Peer"})
	if _, err = requests.UpdateApproval(ctx, name, found, metav1.UpdateOptions{}); err != nil {
		return err
	}
	issued, err := certutil.WaitForCertificate(ctx, p.client, name, uid)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(issued)
	parsed, err := x509.ParseCertificate(block.Bytes)
	return first(err, want("name", parsed.Subject.CommonName, "joe"), want("client", slices.Equal(parsed.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}), true))
}

func eviction(ctx context.Context, p *peer) error {
	pods := p.client.CoreV1().Pods(namespace)
	if _, err := pods.Create(ctx, pod("evicted"), noOptions); err != nil {
		return err
	}
	if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "evicted", Namespace: namespace}}); err != nil {
		return err
	}
	return eventually(ctx, "gone", func() (bool, error) {
		found, err := pods.Get(ctx, "evicted", metav1.GetOptions{})
		return apierrors.IsNotFound(err) || err == nil && found.DeletionTimestamp != nil, err
	})
}

func recorders(ctx context.Context, p *peer) error {
	target, err := p.client.CoreV1().Secrets(namespace).Create(ctx, secret("reported"), noOptions)
	if err != nil {
		return err
	}
	old := record.NewBroadcaster(record.WithContext(ctx))
	old.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: p.client.CoreV1().Events("")})
	recorder := old.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "peer"})
	for range 3 {
		recorder.Event(target, corev1.EventTypeWarning, "Old", "the same")
	}
	adapter := events.NewEventBroadcasterAdapterWithContext(ctx, p.client)
	adapter.StartRecordingToSink(ctx.Done())
	adapter.NewRecorder("peer").Eventf(target, nil, corev1.EventTypeNormal, "New", "Doing", "said %d", 1)
	return eventually(ctx, "both events", func() (bool, error) {
		found, err := p.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=reported"})
		if err != nil {
			return false, err
		}
		seen := map[string]int32{}
		for _, event := range found.Items {
			seen[event.Reason] = event.Count
		}
		_, isNew := seen["New"]
		return seen["Old"] == 3 && isNew, fmt.Errorf("%v", seen)
	})
}

func mediaTypes(ctx context.Context, p *peer) error {
	client := p.client.CoreV1().RESTClient()
	get := func(accept string) (string, error) {
		var kind string
		result := client.Get().Namespace(namespace).Resource("secrets").Name("chosen").SetHeader("Accept", accept).Do(ctx).ContentType(&kind)
		return kind, result.Error()
	}
	kind, err := get("application/cbor, application/json")
	if err := first(err, want("cbor or json", kind, runtime.ContentTypeJSON)); err != nil {
		return err
	}
	if _, err = get("application/cbor"); !apierrors.IsNotAcceptable(err) {
		return fmt.Errorf("cbor: %v", err)
	}
	err = client.Post().Namespace(namespace).Resource("secrets").SetHeader("Content-Type", "application/cbor").Body([]byte{0xd9, 0xd9, 0xf7, 0xa0}).Do(ctx).Error()
	if !apierrors.IsUnsupportedMediaType(err) {
		return fmt.Errorf("cbor sent: %v", err)
	}
	body, err := runtime.Encode(scheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion), secret("yaml"))
	if err != nil {
		return err
	}
	err = client.Post().Namespace(namespace).Resource("secrets").SetHeader("Content-Type", "application/yaml").Body(bytes.TrimSpace(body)).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("yaml: %w", err)
	}
	unknown := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "strict"}, "dta": map[string]any{}}}
	_, err = dynamic.NewForConfigOrDie(p.config).Resource(secretsResource).Namespace(namespace).Create(ctx, unknown, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `strict decoding error: unknown field "dta"`) {
		return fmt.Errorf("strict: %v", err)
	}
	return nil
}
