#include "buffer.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "ggml-cpu/traits.h"
#include "mapped.h"
#include "matmul.h"
#include "pack.h"

// ggml declares these destructors and defines them in its CPU library. Defining them here, hidden, keeps the base
// classes' tables in this library too, so that it loads where that one has other names.
ggml::cpu::tensor_traits::~tensor_traits() = default;
ggml::cpu::extra_buffer_type::~extra_buffer_type() = default;

namespace luq {
namespace {

Runtime * runtime;
ggml_backend_buffer_type_t buffer_type;

[[noreturn]] void give_up(const char * sentence) {
    std::fprintf(stderr, "luq kernels: %s\n", sentence);
    std::abort();  // as ggml does: its callbacks have no way to say no
}

Type type_of(const ggml_tensor * t) { return t->type == GGML_TYPE_IQ1_S ? Type::iq1_s : Type::iq1_m; }

bool whole_matrix(const ggml_tensor * t) {
    return (t->type == GGML_TYPE_IQ1_M || t->type == GGML_TYPE_IQ1_S) && !t->view_src && t->ne[0] % kColumns == 0 &&
           t->ne[1] % kRows == 0 && t->ne[2] == 1 && t->ne[3] == 1 &&
           t->nb[1] == static_cast<size_t>(t->ne[0] / kColumns) * block_bytes(type_of(t));
}

size_t rowgroup_bytes(const ggml_tensor * t) { return t->ne[0] / kColumns * superblock_bytes(runtime->path->layout); }

bool dense_floats(const ggml_tensor * t) {
    return t->type == GGML_TYPE_F32 && t->nb[0] == 4 && t->nb[1] == 4 * static_cast<size_t>(t->ne[0]) &&
           t->nb[2] == t->nb[1] * t->ne[1] && t->nb[3] == t->nb[2] * t->ne[2];
}

int64_t columns_of(const ggml_tensor * activations) {
    return activations->ne[1] * activations->ne[2] * activations->ne[3];
}

struct Traits final : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        size = workspace_bytes(columns_of(op->src[1]), static_cast<int>(op->src[0]->ne[0]));
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const ggml_tensor *weights = op->src[0], *a = op->src[1];
        const int n_rows = static_cast<int>(weights->ne[1]), n_columns = static_cast<int>(weights->ne[0]);
        if (params->ith >= params->nth || params->wsize < workspace_bytes(columns_of(a), n_columns)) {
            give_up("ggml's work buffer is too small: it is not the ggml that they were built for.");
        }
        const Product product = {static_cast<const uint8_t *>(weights->data),
                                 n_rows,
                                 n_columns,
                                 static_cast<const char *>(a->data),
                                 {a->ne[1], a->ne[2], a->ne[3]},
                                 {a->nb[1], a->nb[2], a->nb[3]},
                                 static_cast<float *>(op->data)};
        const Ggml & ggml = runtime->ggml;
        const Team team = {params->ith, params->nth, params->threadpool, ggml.barrier, ggml.chunk_set, ggml.chunk_add};
        const FromFloat from_float = ggml.type_traits_cpu(GGML_TYPE_Q8_K)->from_float;
        multiply(*runtime->path, from_float, product, team, params->wdata);
        return true;
    }
};

Traits traits;

struct ExtraBufferType final : ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        if (op->op != GGML_OP_MUL_MAT) return false;
        const ggml_tensor *weights = op->src[0], *a = op->src[1];
        return weights->buffer && weights->buffer->buft == buffer_type && whole_matrix(weights) &&
               a->type == GGML_TYPE_F32 && a->nb[0] == 4 && dense_floats(op) && columns_of(a) < (1 << 30) &&
               (!a->buffer || runtime->ggml.buft_is_host(a->buffer->buft));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        const ggml_tensor * weights = op->op == GGML_OP_MUL_MAT ? op->src[0] : nullptr;
        if (!weights || !weights->buffer || weights->buffer->buft != buffer_type) return nullptr;
        return static_cast<ggml::cpu::tensor_traits *>(weights->extra);
    }
};

ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * tensor) {
    tensor->extra = whole_matrix(tensor) ? static_cast<ggml::cpu::tensor_traits *>(&traits) : nullptr;
    return GGML_STATUS_SUCCESS;
}

// The rowgroups that a range of the tensor's bytes, as they are in a file, covers.
struct Range {
    int64_t first, count;
    uint8_t * packed;

    Range(const ggml_tensor * tensor, size_t offset, size_t size) {
        const size_t group = kRows * tensor->nb[1];
        if (!tensor->extra || offset % group || size % group) {
            give_up("part of a repacked tensor was asked for: whole groups of 16 rows only.");
        }
        first = static_cast<int64_t>(offset / group);
        count = static_cast<int64_t>(size / group);
        packed = static_cast<uint8_t *>(tensor->data) + first * rowgroup_bytes(tensor);
    }
};

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    const Range range(tensor, offset, size);
    const uint8_t * rows = static_cast<const uint8_t *>(data);
    const int n_superblocks = static_cast<int>(tensor->ne[0] / kColumns);
    for (int64_t i = 0; i < range.count; ++i) {
        pack_rowgroup(runtime->grid, type_of(tensor), runtime->path->layout, rows + i * kRows * tensor->nb[1],
                      tensor->nb[1], n_superblocks, range.packed + i * rowgroup_bytes(tensor));
    }
    leave_mapped_pages(rows, size);
}

void get_tensor(ggml_backend_buffer_t, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    const Range range(tensor, offset, size);
    uint8_t * rows = static_cast<uint8_t *>(data);
    const int n_superblocks = static_cast<int>(tensor->ne[0] / kColumns);
    for (int64_t i = 0; i < range.count; ++i) {
        unpack_rowgroup(runtime->grid, type_of(tensor), runtime->path->layout,
                        range.packed + i * rowgroup_bytes(tensor), n_superblocks, rows + i * kRows * tensor->nb[1],
                        tensor->nb[1]);
    }
}

// Memory in pages of 2 MB where the system has them: streaming through it misses fewer translations.
constexpr size_t kPage = size_t{2} << 20;

void * get_base(ggml_backend_buffer_t buffer) { return buffer->context; }
void free_buffer(ggml_backend_buffer_t buffer) { std::free(buffer->context); }
void clear(ggml_backend_buffer_t buffer, uint8_t value) { std::memset(buffer->context, value, buffer->size); }

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    void * memory = nullptr;
    if (posix_memalign(&memory, kPage, size ? size : 1) != 0) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(memory, size, MADV_HUGEPAGE);
#endif
    ggml_backend_buffer_i calls = {};
    calls.free_buffer = free_buffer;
    calls.get_base = get_base;
    calls.init_tensor = init_tensor;
    calls.set_tensor = set_tensor;
    calls.get_tensor = get_tensor;
    calls.clear = clear;
    return runtime->ggml.buffer_init(buft, calls, memory, size);
}

const char * get_name(ggml_backend_buffer_type_t) { return "CPU_LUQ"; }
size_t get_alignment(ggml_backend_buffer_type_t) { return 64; }
size_t get_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    if (!whole_matrix(tensor)) return runtime->ggml.nbytes(tensor);
    return tensor->ne[1] / kRows * rowgroup_bytes(tensor);
}

}  // namespace

ggml_backend_buffer_type_t make_buffer_type(Runtime & made) {
    static ExtraBufferType extra;
    static ggml_backend_buffer_type made_type;
    runtime = &made;
    made_type.iface.get_name = get_name;
    made_type.iface.alloc_buffer = alloc_buffer;
    made_type.iface.get_alignment = get_alignment;
    made_type.iface.get_alloc_size = get_alloc_size;
    made_type.device = made.ggml.reg_dev_get(made.ggml.cpu_reg(), 0);
    made_type.context = static_cast<ggml::cpu::extra_buffer_type *>(&extra);
    buffer_type = &made_type;
    return buffer_type;
}

}  // namespace luq
