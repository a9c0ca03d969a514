// Copyright: the baremetal.llm authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
//
// Asks llama.cpp how much memory a model would take, without a GPU, without weights and to the byte.
//
//     vram-oracle GPUS        so many RPC devices, served by a child process of its own, stand for GPUs
//
// Reads questions, one JSON object a line, and answers each with one line:
//
//     {"model": "x.gguf", "context": 8192, "devices": 2, ...}    (all keys and their defaults: see ask())
//     {"devices": [{"model": 1, "context": 2, "compute": 3}, ...], "host": {...}}    or    {"error": "..."}
//
//     {"projector": "mmproj.gguf", "devices": 1, ...}    (see ask_projector())
//     {"devices": [1], "host": 2}
//
// The way is that of common/fit.cpp: the model and its context are made with `no_alloc`, and the breakdown of their buffers
// is read. Two things differ from llama-fit-params. The number of outputs is the one that llama-server asks for
// (tools/server/server-context.cpp, server_output_limits), which makes room for a few rows of logits, not for a whole
// batch. And what lies in buffers of no device, repacked weights for one, counts as the host's.

#include "ggml-backend.h"
#include "ggml-rpc.h"
#include "llama.h"
#include "mtmd.h"
#include "../src/llama-ext.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using json = nlohmann::ordered_json;
using Patterns = std::vector<std::pair<std::string, std::string>>;

static std::string complaints; // what llama.cpp said of the current question at the level of errors

static void listen(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        complaints += text;
    }
}

static ggml_type type_named(const std::string & name) {
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char * known = ggml_type_name((ggml_type) type);
        if (known && name == known) {
            return (ggml_type) type;
        }
    }
    throw std::invalid_argument("unknown type " + name);
}

static llama_split_mode split_named(const std::string & name) {
    if (name == "none")   return LLAMA_SPLIT_MODE_NONE;
    if (name == "layer")  return LLAMA_SPLIT_MODE_LAYER;
    if (name == "row")    return LLAMA_SPLIT_MODE_ROW;
    if (name == "tensor") return LLAMA_SPLIT_MODE_TENSOR;
    throw std::invalid_argument("unknown split mode " + name);
}

struct Free {
    void operator()(llama_model * model) const { llama_model_free(model); }
    void operator()(llama_context * context) const { llama_free(context); }
};

// A loaded model, kept as long as the questions are about the same one: a header with its tensors takes most of the time.
struct Loaded {
    std::string key;
    std::unique_ptr<llama_model, Free> model;
};

static void load(Loaded & loaded, const json & question, const std::vector<ggml_backend_dev_t> & gpus) {
    const size_t count = question.value("devices", 0);
    if (count > gpus.size()) {
        throw std::invalid_argument("more devices than this program was started with");
    }
    const json overrides = question.value("override_tensor", json::array());
    const json key = { question.at("model"), count, question.value("tensor_split", json::array()), question.value("split_mode", "layer"),
        question.value("main_gpu", 0), question.value("gpu_layers", -1), question.value("cpu_moe", 0), overrides };
    if (loaded.model && loaded.key == key.dump()) {
        return;
    }
    loaded.model.reset();

    std::vector<ggml_backend_dev_t> devices(gpus.begin(), gpus.begin() + count);
    devices.push_back(nullptr);
    std::vector<float> split = question.value("tensor_split", std::vector<float>());
    split.resize(llama_max_devices(), 0.0f);

    // As --n-cpu-moe and --override-tensor are turned into patterns in common/arg.cpp, in this order.
    Patterns patterns;
    for (int layer = 0; layer < question.value("cpu_moe", 0); layer++) {
        patterns.emplace_back("blk\\." + std::to_string(layer) + "\\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU");
    }
    for (const json & one : overrides) {
        patterns.emplace_back(one.at(0), one.at(1));
    }
    std::vector<llama_model_tensor_buft_override> buffers;
    for (const auto & [pattern, place] : patterns) {
        const ggml_backend_buffer_type_t buffer = place == "CPU" ? ggml_backend_cpu_buffer_type() :
            ggml_backend_dev_buffer_type(gpus.at(std::stoul(place)));
        buffers.push_back({ pattern.c_str(), buffer });
    }
    buffers.push_back({ nullptr, nullptr });

    llama_model_params params = llama_model_default_params();
    params.devices = devices.data();
    params.tensor_split = split.data();
    params.tensor_buft_overrides = buffers.size() > 1 ? buffers.data() : nullptr;
    params.split_mode = split_named(question.value("split_mode", "layer"));
    params.main_gpu = question.value("main_gpu", 0);
    params.n_gpu_layers = question.value("gpu_layers", -1);
    params.no_alloc = true;
    params.load_mode = LLAMA_LOAD_MODE_NONE;
    loaded.model.reset(llama_model_load_from_file(question.at("model").get<std::string>().c_str(), params));
    if (!loaded.model) {
        throw std::runtime_error("the model does not load: " + complaints);
    }
    loaded.key = key.dump();
}

static std::unique_ptr<llama_context, Free> open(llama_model * model, const json & question) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = question.value("context", 0u);
    params.n_seq_max = question.value("parallel", 1u);
    params.kv_unified = question.value("unified", false);
    params.n_batch = question.value("batch", 2048u);
    params.n_ubatch = question.value("ubatch", 512u);
    params.type_k = type_named(question.value("cache_k", "f16"));
    params.type_v = type_named(question.value("cache_v", "f16"));
    params.flash_attn_type = question.value("flash_attention", true) ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.swa_full = question.value("swa_full", false);
    params.embeddings = question.value("embeddings", false);
    if (params.embeddings && params.n_batch > params.n_ubatch) {
        params.n_batch = params.n_ubatch; // as common/common.cpp and tools/server/server.cpp
    }
    params.n_outputs_max = question.value("outputs", params.embeddings ? params.n_batch : std::min(params.n_batch, params.n_seq_max));
    params.n_outputs_max_per_seq = 1;
    std::unique_ptr<llama_context, Free> context(llama_init_from_model(model, params));
    if (!context) {
        throw std::runtime_error("no context: " + complaints);
    }
    return context;
}

static json shown(const llama_memory_breakdown_data & size) {
    return { { "model", size.model }, { "context", size.context }, { "compute", size.compute } };
}

static json ask(Loaded & loaded, const json & question, const std::vector<ggml_backend_dev_t> & gpus) {
    load(loaded, question, gpus);
    const llama_model * model = loaded.model.get();
    const auto context = open(loaded.model.get(), question);
    std::vector<llama_memory_breakdown_data> sizes(llama_model_n_devices(model) + 1); // the last one is the host
    for (const auto & [buffer, size] : llama_get_memory_breakdown(context.get())) {
        size_t place = sizes.size() - 1;
        for (size_t number = 0; number + 1 < sizes.size() && !ggml_backend_buft_is_host(buffer); number++) {
            if (ggml_backend_buft_get_device(buffer) == llama_model_get_device(model, number)) {
                place = number;
            }
        }
        sizes[place].model += size.model;
        sizes[place].context += size.context;
        sizes[place].compute += size.compute;
    }
    json devices = json::array();
    for (size_t number = 0; number + 1 < sizes.size(); number++) {
        devices.push_back(shown(sizes[number]));
    }
    return { { "devices", devices }, { "host", shown(sizes.back()) } };
}

// The encoder of images: its weights, and the scratch for the largest image (tools/server/server-context.cpp asks the same).
static json ask_projector(const json & question, const std::vector<ggml_backend_dev_t> & gpus) {
    const size_t count = question.value("devices", 0);
    mtmd_context_params params = mtmd_context_params_default();
    params.use_gpu = count > 0;
    params.device = count > 0 ? gpus.at(0) : nullptr;
    params.warmup = true;
    params.flash_attn_type = question.value("flash_attention", true) ? LLAMA_FLASH_ATTN_TYPE_AUTO : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.image_max_tokens = question.value("image_max_tokens", -1);
    const mtmd_memory_usage usage = mtmd_get_memory_usage(question.at("projector").get<std::string>().c_str(), params);
    if (usage.backend_mem_usage.empty()) {
        throw std::runtime_error("the projector does not load: " + complaints);
    }
    std::vector<size_t> devices(count);
    size_t host = 0;
    for (const auto & [device, size] : usage.backend_mem_usage) {
        (count > 0 && device == gpus.at(0) ? devices[0] : host) += size;
    }
    return { { "devices", devices }, { "host", host } };
}

// A port of the loopback interface that nobody listens on.
static sockaddr_in unused_address() {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int handle = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t size = sizeof(address);
    if (handle < 0 || bind(handle, (sockaddr *) &address, size) != 0 || getsockname(handle, (sockaddr *) &address, &size) != 0) {
        throw std::runtime_error("no port is free");
    }
    close(handle);
    return address;
}

static bool answers(const sockaddr_in & address) {
    const int handle = socket(AF_INET, SOCK_STREAM, 0);
    const bool connected = connect(handle, (const sockaddr *) &address, sizeof(address)) == 0;
    close(handle);
    return connected;
}

// Devices that only count: with `no_alloc` nothing is ever put on them. The server dies with this process.
static std::vector<ggml_backend_dev_t> serve(size_t count) {
    const sockaddr_in address = unused_address();
    const std::string endpoint = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(STDERR_FILENO, STDOUT_FILENO); // it talks, and standard output is for answers
        std::vector<ggml_backend_dev_t> devices(count, ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
        if (getppid() == parent) {
            ggml_backend_rpc_start_server(endpoint.c_str(), nullptr, 1, devices.size(), devices.data());
        }
        _exit(1);
    }
    for (int tries = 0; tries < 500 && child > 0 && waitpid(child, nullptr, WNOHANG) == 0 && !answers(address); tries++) {
        usleep(10000);
    }
    const ggml_backend_reg_t server = ggml_backend_rpc_add_server(endpoint.c_str());
    if (!server) {
        throw std::runtime_error("the RPC server does not answer at " + endpoint);
    }
    ggml_backend_register(server);
    std::vector<ggml_backend_dev_t> devices;
    for (size_t number = 0; number < ggml_backend_reg_dev_count(server); number++) {
        devices.push_back(ggml_backend_reg_dev_get(server, number));
    }
    return devices;
}

int main(int count, char ** arguments) {
    llama_log_set(listen, nullptr);
    const size_t wanted = count > 1 ? std::stoul(arguments[1]) : 0;
    const std::vector<ggml_backend_dev_t> gpus = wanted ? serve(wanted) : std::vector<ggml_backend_dev_t>();
    llama_backend_init();
    Loaded loaded;
    for (std::string line; std::getline(std::cin, line);) {
        complaints.clear();
        json answer;
        try {
            const json question = json::parse(line);
            answer = question.contains("projector") ? ask_projector(question, gpus) : ask(loaded, question, gpus);
        } catch (const std::exception & error) {
            answer = { { "error", error.what() } };
        }
        std::cout << answer.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
    }
}
