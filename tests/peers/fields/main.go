// Command fields applies and updates objects as kube-apiserver does: the field manager of k8s.io/apimachinery with the types of
// client-go's apply configurations. A line in is one life of an object, a line out what it was after each step:
//
//	[{apply, manager, force, object}, ...]  ->  [{object} or {conflict} or {error}, ...]
//
// A step that failed changes nothing.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

type step struct {
	Apply   bool           `json:"apply"`
	Manager string         `json:"manager"`
	Force   bool           `json:"force"`
	Object  map[string]any `json:"object"`
}

type outcome struct {
	Object   any      `json:"object,omitempty"`
	Conflict []string `json:"conflict,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// noDefaults: what is compared is who owns what, not who fills in the rest.
type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

func main() {
	types := applyconfigurations.NewTypeConverter(scheme.Scheme)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var steps []step
		if err := json.Unmarshal(in.Bytes(), &steps); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		outcomes, err := live(types, steps)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := out.Encode(outcomes); err != nil {
			os.Exit(1)
		}
	}
}

func live(types managedfields.TypeConverter, steps []step) ([]outcome, error) {
	kind := schema.FromAPIVersionAndKind(steps[0].Object["apiVersion"].(string), steps[0].Object["kind"].(string))
	manager, err := managedfields.NewDefaultFieldManager(types, scheme.Scheme, noDefaults{}, scheme.Scheme, kind, kind.GroupVersion(), "", nil)
	if err != nil {
		return nil, err
	}
	current, err := scheme.Scheme.New(kind)
	if err != nil {
		return nil, err
	}
	current.GetObjectKind().SetGroupVersionKind(kind)
	outcomes := []outcome{}
	for _, s := range steps {
		var next runtime.Object
		if s.Apply {
			next, err = manager.Apply(current.DeepCopyObject(), &unstructured.Unstructured{Object: s.Object}, s.Manager, s.Force)
		} else {
			changed, _ := scheme.Scheme.New(kind)
			if err = runtime.DefaultUnstructuredConverter.FromUnstructured(s.Object, changed); err == nil {
				next, err = manager.Update(current.DeepCopyObject(), changed, s.Manager)
			}
		}
		if err != nil {
			found := outcome{Error: err.Error()}
			if status, ok := err.(*apierrors.StatusError); ok && apierrors.IsConflict(err) {
				found.Error = ""
				for _, cause := range status.Status().Details.Causes {
					if cause.Type == metav1.CauseTypeFieldManagerConflict {
						found.Conflict = append(found.Conflict, cause.Field+" "+cause.Message)
					}
				}
			}
			outcomes = append(outcomes, found)
			continue
		}
		current = next
		outcomes = append(outcomes, outcome{Object: next.DeepCopyObject()})
	}
	return outcomes, nil
}
