"""The part of llama.cpp's C API that this package calls, as of build b11739 (``include/llama.h``), for cffi.

Structs are passed by value, so a library with other fields would be given garbage: :func:`differences` compares what
can be compared without knowing the library's header.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

BUILD = "b11739"
"""The build that the declarations are from. Others work while they declare the same."""

DECLARATIONS = """
typedef int32_t llama_pos;
typedef int32_t llama_token;
typedef int32_t llama_seq_id;
typedef bool (*ggml_abort_callback)(void * data);
typedef void (*ggml_log_callback)(int level, const char * text, void * user_data);

struct llama_model_params {
    void ** devices;
    const void * tensor_buft_overrides;
    int32_t n_gpu_layers;
    int split_mode;
    int load_mode;
    int lazy_mode;
    int32_t main_gpu;
    const float * tensor_split;
    void * progress_callback;
    void * progress_callback_user_data;
    const void * kv_overrides;
    bool vocab_only;
    bool check_tensors;
    bool use_extra_bufts;
    bool no_host;
    bool no_alloc;
    bool load_mtp;
};

struct llama_context_params {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq_max;
    uint32_t n_rs_seq;
    uint32_t n_outputs_max;
    uint32_t n_outputs_max_per_seq;
    int32_t n_threads;
    int32_t n_threads_batch;
    int ctx_type;
    int rope_scaling_type;
    int pooling_type;
    int attention_type;
    int flash_attn_type;
    float rope_freq_base;
    float rope_freq_scale;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    float defrag_thold;
    void * cb_eval;
    void * cb_eval_user_data;
    int type_k;
    int type_v;
    size_t moe_cache_size;
    void * abort_callback;
    void * abort_callback_data;
    bool embeddings;
    bool offload_kqv;
    bool no_perf;
    bool op_offload;
    bool swa_full;
    bool kv_unified;
    void * samplers;
    size_t n_samplers;
    void * ctx_other;
};

typedef struct llama_batch {
    int32_t n_tokens;
    llama_token * token;
    float * embd;
    llama_pos * pos;
    int32_t * n_seq_id;
    llama_seq_id ** seq_id;
    int8_t * logits;
} llama_batch;

struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
void llama_backend_init(void);
void llama_log_set(ggml_log_callback log_callback, void * user_data);
const char * llama_print_system_info(void);
void * llama_model_load_from_file(const char * path_model, struct llama_model_params params);
void llama_model_free(void * model);
void * llama_init_from_model(void * model, struct llama_context_params params);
void llama_free(void * ctx);
int32_t llama_model_n_embd(const void * model);
void * llama_get_memory(const void * ctx);
int llama_pooling_type(const void * ctx);
const void * llama_model_get_vocab(const void * model);
const char * llama_model_chat_template(const void * model, const char * name);
int32_t llama_vocab_n_tokens(const void * vocab);
bool llama_vocab_is_eog(const void * vocab, llama_token token);
bool llama_vocab_is_control(const void * vocab, llama_token token);
llama_token llama_vocab_bos(const void * vocab);
llama_token llama_vocab_eos(const void * vocab);
llama_token llama_vocab_sep(const void * vocab);
int32_t llama_tokenize(const void * vocab, const char * text, int32_t text_len, llama_token * tokens,
                       int32_t n_tokens_max, bool add_special, bool parse_special);
int32_t llama_token_to_piece(const void * vocab, llama_token token, char * buf, int32_t length, int32_t lstrip,
                             bool special);
struct llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max);
void llama_batch_free(struct llama_batch batch);
int32_t llama_encode(void * ctx, struct llama_batch batch);
int32_t llama_decode(void * ctx, struct llama_batch batch);
float * llama_get_logits_ith(void * ctx, int32_t i);
float * llama_get_embeddings_seq(void * ctx, llama_seq_id seq_id);
bool llama_memory_seq_rm(void * mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1);
size_t llama_state_seq_get_size(void * ctx, llama_seq_id seq_id);
size_t llama_state_seq_get_data(void * ctx, uint8_t * dst, size_t size, llama_seq_id seq_id);
size_t llama_state_seq_set_data(void * ctx, const uint8_t * src, size_t size, llama_seq_id dest_seq_id);
void llama_set_abort_callback(void * ctx, ggml_abort_callback abort_callback, void * abort_callback_data);
"""

REGISTRY = """
size_t ggml_backend_dev_count(void);
void ggml_backend_load_all_from_path(const char * dir_path);
"""
"""Functions of ggml that a build with loadable backends has; looked up where they are needed."""

FEATURES = ("avx", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx_int8", "fma", "f16c", "neon")
"""Instruction sets that ``ggml_cpu_has_…`` reports."""

FLASH_ATTENTION_DISABLED = 0

_DEFAULTS: dict[str, dict[str, float]] = {
    "llama_model_default_params": {
        "split_mode": 1, "main_gpu": 0, "vocab_only": 0, "check_tensors": 0, "use_extra_bufts": 1, "no_host": 0,
        "no_alloc": 0,
    },
    "llama_context_default_params": {
        "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "rope_scaling_type": -1, "pooling_type": -1,
        "attention_type": -1, "flash_attn_type": -1, "rope_freq_base": 0, "yarn_ext_factor": -1, "defrag_thold": -1,
        "type_k": 1, "type_v": 1, "embeddings": 0, "offload_kqv": 1, "no_perf": 1, "op_offload": 1, "swa_full": 1,
        "kv_unified": 0, "n_samplers": 0,
    },
}  # fmt: skip
"""Values that llama.cpp gives parameters by default, by the function that returns them: a field elsewhere shows."""

_ROOM = 4096


def functions() -> list[str]:
    """The functions that a library must have."""
    lines = DECLARATIONS[DECLARATIONS.index("llama_model_default_params(void)") - 40 :].splitlines()
    return [line.split("(")[0].split()[-1].lstrip("*") for line in lines if "(" in line and not line.startswith(" ")]


def differences(ffi: Any, library: Any) -> Iterator[str]:
    """The ways in which a library differs from the declarations: missing functions, or parameters of another layout.

    Defaults are compared field by field. On x86-64 the size of what the library writes is measured too, because there
    the caller passes the address of a returned struct as an ordinary argument; elsewhere, fields that were appended to
    a struct are not noticed.
    """
    missing = [name for name in functions() if not hasattr(library, name)]
    if missing:
        yield f"it has no function {missing[0]}"
        return
    for function, expected in _DEFAULTS.items():
        struct = f"struct {function.replace('_default_params', '_params')}"
        ffi.cdef(f"typedef struct {{ {struct} known; char more[{_ROOM}]; }} {function}_padded;", override=True)
        address = ffi.cast("uintptr_t", ffi.addressof(library, function))
        if platform.machine() in ("x86_64", "AMD64") and platform.system() != "Windows":
            write = ffi.cast("void * (*)(void *)", address)
            found, size = ffi.new(f"{struct} *"), ffi.sizeof(struct)
            touched = 0
            for fill in (0x00, 0xFF):
                room = ffi.new("uint8_t[]", _ROOM)
                ffi.memmove(room, bytes([fill]) * _ROOM, _ROOM)
                write(room)
                content = bytes(ffi.buffer(room))
                touched = max([touched, *(at + 1 for at, byte in enumerate(content) if byte != fill)])
                ffi.buffer(found)[:] = content[:size]
            if not size - 8 < touched <= size:
                yield f"{function}() returns {touched} bytes instead of {size}"
                return
            known = found[0]
        else:
            known = ffi.cast(f"{function}_padded (*)(void)", address)().known
        for name, value in expected.items():
            if (other := float(getattr(known, name))) != value:
                yield f"{function}() says {name} = {other:g} instead of {value:g}"
                return
