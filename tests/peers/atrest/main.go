// Command atrest is the part of kube-apiserver that stands between an object and its store: the codecs of client-go's scheme and
// the transformers that k8s.io/apiserver makes of an EncryptionConfiguration. One JSON value per line in, one per line out.
//
//	atrest read CONFIG                  {group, resource, key, value}        -> {key, stale, object} or {key, error}
//	atrest write CONFIG  MEDIATYPE       {group, resource, key, object}       -> {key, value}
//	atrest encode                       object                               -> {value}: its protobuf in the envelope
//	atrest kms SOCKET [KEY]              a KMS v2 plugin of k8s.io/kms/pkg/service; the key in hexadecimal, or a random one
//
// CONFIG may be "-": nothing is encrypted.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kms/pkg/service"
)

type record struct {
	Group    string          `json:"group,omitempty"`
	Resource string          `json:"resource,omitempty"`
	Key      string          `json:"key,omitempty"`
	Value    []byte          `json:"value,omitempty"`
	Object   json.RawMessage `json:"object,omitempty"`
	Stale    bool            `json:"stale"`
	Error    string          `json:"error,omitempty"`
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var err error
	switch os.Args[1] {
	case "read":
		err = read(ctx, os.Args[2])
	case "write":
		err = write(ctx, os.Args[2], os.Args[3])
	case "encode":
		err = encode()
	case "kms":
		err = serveKMS(os.Args[2], os.Args[3:]...)
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func transformers(ctx context.Context, path string) (value.ResourceTransformers, error) {
	if path == "-" {
		return encryptionconfig.StaticTransformers{}, nil
	}
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, path, false, "peer")
	if err != nil {
		return nil, err
	}
	return encryptionconfig.StaticTransformers(config.Transformers), nil
}

// each calls do with every line of standard input and prints what it returns.
func each(do func([]byte) record) error {
	in, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			if err := out.Encode(do(line)); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func read(ctx context.Context, config string) error {
	all, err := transformers(ctx, config)
	if err != nil {
		return err
	}
	return each(func(line []byte) record {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return record{Error: err.Error()}
		}
		t := all.TransformerForResource(schema.GroupResource{Group: r.Group, Resource: r.Resource})
		plain, stale, err := t.TransformFromStorage(ctx, r.Value, value.DefaultContext(r.Key))
		if err != nil {
			return record{Key: r.Key, Error: err.Error()}
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(plain, nil, nil)
		if err != nil {
			return record{Key: r.Key, Error: err.Error()}
		}
		text, err := runtime.Encode(jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, jsonserializer.SerializerOptions{}), obj)
		if err != nil {
			return record{Key: r.Key, Error: err.Error()}
		}
		return record{Key: r.Key, Stale: stale, Object: bytes.TrimSpace(text)}
	})
}

func write(ctx context.Context, config, mediaType string) error {
	all, err := transformers(ctx, config)
	if err != nil {
		return err
	}
	return each(func(line []byte) record {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return record{Error: err.Error()}
		}
		plain, err := encoded(r.Object, mediaType)
		if err != nil {
			return record{Key: r.Key, Error: err.Error()}
		}
		t := all.TransformerForResource(schema.GroupResource{Group: r.Group, Resource: r.Resource})
		stored, err := t.TransformToStorage(ctx, plain, value.DefaultContext(r.Key))
		if err != nil {
			return record{Key: r.Key, Error: err.Error()}
		}
		return record{Group: r.Group, Resource: r.Resource, Key: r.Key, Value: stored}
	})
}

func encode() error {
	return each(func(line []byte) record {
		stored, err := encoded(line, runtime.ContentTypeProtobuf)
		if err != nil {
			return record{Error: err.Error()}
		}
		return record{Value: stored}
	})
}

func encoded(text []byte, mediaType string) ([]byte, error) {
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(text, nil, nil)
	if err != nil {
		return nil, err
	}
	if mediaType == runtime.ContentTypeProtobuf {
		return runtime.Encode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), obj)
	}
	return runtime.Encode(jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, jsonserializer.SerializerOptions{}), obj)
}

// keyService keeps its key in memory: AES-GCM, the nonce first, one annotation that it wants back.
type keyService struct{ aead cipher.AEAD }

func (k keyService) Encrypt(_ context.Context, _ string, data []byte) (*service.EncryptResponse, error) {
	nonce := make([]byte, k.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return &service.EncryptResponse{
		Ciphertext:  k.aead.Seal(nonce, nonce, data, nil),
		KeyID:       "peer-1",
		Annotations: map[string][]byte{"peer.example.com": []byte("1")},
	}, nil
}

func (k keyService) Decrypt(_ context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	if req.KeyID != "peer-1" || string(req.Annotations["peer.example.com"]) != "1" {
		return nil, fmt.Errorf("unknown key %q, annotations %v", req.KeyID, req.Annotations)
	}
	size := k.aead.NonceSize()
	if len(req.Ciphertext) < size {
		return nil, fmt.Errorf("short")
	}
	return k.aead.Open(nil, req.Ciphertext[:size], req.Ciphertext[size:], nil)
}

func (k keyService) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: "peer-1"}, nil
}

func serveKMS(path string, keys ...string) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	if len(keys) > 0 {
		if _, err := hex.Decode(key, []byte(keys[0])); err != nil {
			return err
		}
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	return service.NewGRPCService(path, 5*time.Second, keyService{aead}).ListenAndServe()
}
