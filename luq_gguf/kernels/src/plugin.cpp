// What loads this library calls one of: ggml_backend_init, which ggml's loader looks for, or luq_kernels_register.
// Both add the buffer type to the CPU backend, once, or say in a sentence why not.
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

#include "abi.h"
#include "buffer.h"
#include "dispatch.h"

#define LUQ_EXPORT extern "C" __attribute__((visibility("default")))

namespace luq {
namespace {

struct State {
    Runtime runtime;
    std::string refusal;  // empty where the kernels are in use, or were switched off
    bool asked = false;
};

// Never destroyed: ggml's threads and buffers may outlive static objects.
State & state() {
    static State * made = new State;
    return *made;
}

// The CPU backend copies its list when it is first asked for it, by the first model that is loaded.
std::string add_to_list(const Ggml & ggml, ggml_backend_buffer_type_t ours) {
    auto & list = ggml.extra_buffer_types();
    list.push_back(ours);
    const auto get = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml.reg_get_proc_address(ggml.cpu_reg(), "ggml_backend_dev_get_extra_bufts"));
    if (get) {
        for (const ggml_backend_buffer_type_t * at = get(ours->device); *at; ++at) {
            if (*at == ours) return "";
        }
    }
    list.pop_back();
    return "A model was loaded before them: register the kernels first.";
}

bool learn_types(Runtime & runtime) {
    const auto to_float_m = runtime.ggml.type_traits(GGML_TYPE_IQ1_M)->to_float;
    const auto to_float_s = runtime.ggml.type_traits(GGML_TYPE_IQ1_S)->to_float;
    Grid & grid = runtime.grid;
    return grid.learn(to_float_m) && grid.agrees(Type::iq1_m, to_float_m) && grid.agrees(Type::iq1_s, to_float_s);
}

std::string start(State & s) {
    const Choice choice = choose_path(std::getenv("LUQ_KERNELS"));
    if (!choice.path) return choice.note;
    s.refusal = s.runtime.ggml.find();
    if (s.refusal.empty()) s.refusal = abi_difference(s.runtime.ggml);
    if (!s.refusal.empty()) return s.refusal;
    if (!learn_types(s.runtime)) return "This ggml's IQ1_M or IQ1_S is not the one that the kernels were built for.";
    s.runtime.path = choice.path;
    const std::string failure = add_to_list(s.runtime.ggml, make_buffer_type(s.runtime));
    if (!failure.empty()) s.runtime.path = nullptr;
    if (failure.empty() && !choice.note.empty()) std::fprintf(stderr, "luq kernels: %s\n", choice.note.c_str());
    return failure;
}

// The sentence, or an empty one.
const std::string & refusal() {
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    State & s = state();
    if (!s.asked) {
        s.asked = true;
        s.refusal = start(s);
        if (!s.refusal.empty()) std::fprintf(stderr, "luq kernels are not used: %s\n", s.refusal.c_str());
    }
    return s.refusal;
}

const char * reg_name(ggml_backend_reg_t) { return "LUQ"; }
size_t reg_device_count(ggml_backend_reg_t) { return 0; }
ggml_backend_dev_t reg_device(ggml_backend_reg_t, size_t) { return nullptr; }
void * reg_address(ggml_backend_reg_t, const char *) { return nullptr; }

}  // namespace
}  // namespace luq

// Null where the kernels refuse: ggml drops the library then and goes on without it.
LUQ_EXPORT ggml_backend_reg_t ggml_backend_init() {
    static ggml_backend_reg reg = {GGML_BACKEND_API_VERSION,
                                   {luq::reg_name, luq::reg_device_count, luq::reg_device, luq::reg_address},
                                   nullptr};
    return luq::refusal().empty() ? &reg : nullptr;
}

// For processes that do not read GGML_BACKEND_PATH. Null, or why not.
LUQ_EXPORT const char * luq_kernels_register() {
    const std::string & sentence = luq::refusal();
    return sentence.empty() ? nullptr : sentence.c_str();
}

// The path that is used, or that would be used where nothing has been registered; null: none.
LUQ_EXPORT const char * luq_kernels_path() {
    const luq::Choice choice = luq::choose_path(std::getenv("LUQ_KERNELS"));
    return choice.path ? choice.path->name : nullptr;
}

// Bits a weight takes on that path.
LUQ_EXPORT double luq_kernels_bits() {
    const luq::Choice choice = luq::choose_path(std::getenv("LUQ_KERNELS"));
    return choice.path ? 8.0 * luq::superblock_bytes(choice.path->layout) / (luq::kRows * luq::kColumns) : 0.0;
}
