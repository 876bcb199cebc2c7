// Command patches makes and applies patches as kubectl and kube-apiserver do, with k8s.io/apimachinery's strategicpatch. A line in,
// a line out:
//
//	{original, modified, current}  ->  {patch, merged}: what kubectl apply would send, and what becomes of current
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
)

type question struct {
	Original json.RawMessage `json:"original"`
	Modified json.RawMessage `json:"modified"`
	Current  json.RawMessage `json:"current"`
}

type answer struct {
	Patch  json.RawMessage `json:"patch,omitempty"`
	Merged json.RawMessage `json:"merged,omitempty"`
	Error  string          `json:"error,omitempty"`
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		found, err := patched(q)
		if err != nil {
			found.Error = err.Error()
		}
		if err := out.Encode(found); err != nil {
			os.Exit(1)
		}
	}
}

func patched(q question) (a answer, err error) {
	var kind struct{ APIVersion, Kind string }
	if err = json.Unmarshal(q.Current, &kind); err != nil {
		return
	}
	typed, err := scheme.Scheme.New(schema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind))
	if err != nil {
		return
	}
	lookup, err := strategicpatch.NewPatchMetaFromStruct(typed)
	if err != nil {
		return
	}
	if a.Patch, err = strategicpatch.CreateThreeWayMergePatch(q.Original, q.Modified, q.Current, lookup, true); err != nil {
		return
	}
	a.Merged, err = strategicpatch.StrategicMergePatchUsingLookupPatchMeta(q.Current, a.Patch, lookup)
	return
}
