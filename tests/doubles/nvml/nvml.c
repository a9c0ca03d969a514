/* Copyright: the baremetal.llm authors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 *
 * Stand-in for NVIDIA's libnvidia-ml.so.1, for tests on machines without a GPU: the calls that nvidia-ml-py makes, answered from files.
 *
 * $NVML_DOUBLE (/var/lib/nvml-double)
 *   board    what the machine is: lines `key = value`, `#` starts a comment. README.md lists the keys. No board: no driver is loaded.
 * $NVML_DOUBLE_RUN (/run/nvml-double), made when it is first needed; what lies there is forgotten at a reboot
 *   state    what was set: the same keys, in front of the board's
 *   calls    every Set and Reset: `call gpu arguments -> result`
 *   lock, clients    one writer at a time; who has a session open
 * $NVML_DOUBLE_EUID plays another user than the real one. All three are read at every call.
 *
 * As on a real machine a GPU forgets its power limit, locked clocks and compute mode when the last session ends and neither persistence
 * mode nor a process keeps it awake (https://docs.nvidia.com/deploy/driver-persistence/data-persistence.html).
 */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_GPUS 64
#define MAX_LIST 1024
#define TEXT 256
#define NOT_AVAILABLE (~0ULL)

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, OPERATING_SYSTEM = 17, ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999
};

struct device { char opaque; };
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; };
struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };
struct temperature { unsigned version, sensor; int celsius; };
struct utilization { unsigned gpu, memory; };

static struct device devices[MAX_GPUS];
static pthread_mutex_t sessions_mutex = PTHREAD_MUTEX_INITIALIZER;
static int sessions;
static int client = -1;

/* ---- files ---- */

static void path_of(char *path, const char *variable, const char *fallback, const char *name)
{
    const char *directory = getenv(variable);
    snprintf(path, PATH_MAX, "%s/%s", directory ? directory : fallback, name);
}

static void board_path(char *path) { path_of(path, "NVML_DOUBLE", "/var/lib/nvml-double", "board"); }
static void run_path(char *path, const char *name) { path_of(path, "NVML_DOUBLE_RUN", "/run/nvml-double", name); }

/* Splits a line; false for comments and empty lines. */
static int split(const char *line, char *key, char *value)
{
    if (sscanf(line, " %255[^=# \t] = %255[^#\n]", key, value) != 2)
        return 0;
    for (char *end = value + strlen(value); end > value && strchr(" \t\r", end[-1]); )
        *--end = '\0';
    return 1;
}

static int find(const char *path, const char *key, char *value)
{
    FILE *file = fopen(path, "re");
    char line[2 * TEXT], name[TEXT];
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file))
        found = split(line, name, value) && strcmp(name, key) == 0;
    if (file)
        fclose(file);
    return found;
}

/* A descriptor of a file below the run directory, open to every user; -1 where it cannot be had. */
static int open_run(const char *name, int flags)
{
    char path[PATH_MAX];
    run_path(path, "");
    if (mkdir(path, 0777) == 0)
        (void)!chmod(path, 0777);
    run_path(path, name);
    int descriptor = open(path, flags | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor >= 0)
        (void)!fchmod(descriptor, 0666);
    return descriptor;
}

static int lock_state(void)
{
    int lock = open_run("lock", O_RDWR);
    if (lock >= 0)
        flock(lock, LOCK_EX);
    return lock;
}

/* ---- what the board says ---- */

static int look_up(const char *key, char *value)
{
    char path[PATH_MAX];
    run_path(path, "state");
    if (find(path, key, value))
        return 1;
    board_path(path);
    return find(path, key, value);
}

/* The value of `gpu.N.key`, else of `gpu.*.key`; of plain `key` for gpu -1. What is missing or "unsupported" is NOT_SUPPORTED. */
static int text(int gpu, const char *key, char *value)
{
    char name[TEXT];
    if (gpu < 0) {
        if (!look_up(key, value))
            return NOT_SUPPORTED;
    } else {
        snprintf(name, sizeof name, "gpu.%d.%s", gpu, key);
        if (!look_up(name, value)) {
            snprintf(name, sizeof name, "gpu.*.%s", key);
            if (!look_up(name, value))
                return NOT_SUPPORTED;
        }
    }
    return strcmp(value, "unsupported") == 0 ? NOT_SUPPORTED : SUCCESS;
}

static int number(int gpu, const char *key, double *value)
{
    char word[TEXT], *end;
    int result = text(gpu, key, word);
    if (result)
        return result;
    if (strcmp(word, "on") == 0 || strcmp(word, "off") == 0) {
        *value = strcmp(word, "on") == 0;
        return SUCCESS;
    }
    *value = strtod(word, &end);
    if (strcmp(end, " MiB") == 0)
        *value *= 1 << 20;
    else if (end == word || *end)
        return UNKNOWN; /* a mistake in the board file */
    return SUCCESS;
}

static int whole(int gpu, const char *key, double scale, unsigned *value)
{
    double found;
    int result = number(gpu, key, &found);
    if (!result)
        *value = (unsigned)(found * scale + 0.5);
    return result;
}

static int gpu_count(void)
{
    double count = 0;
    number(-1, "gpus", &count);
    return count > MAX_GPUS ? MAX_GPUS : (int)count;
}

/* "2100-210/15 405" is 2100, 2085 ... 210, 405: from the highest down, as NVML lists clocks. */
static unsigned expand(const char *list, unsigned *values)
{
    unsigned count = 0, high, low, step;
    int used;
    while (count < MAX_LIST && sscanf(list, " %u%n", &high, &used) == 1) {
        list += used;
        low = high, step = 1;
        if (sscanf(list, "-%u/%u%n", &low, &step, &used) == 2)
            list += used;
        for (; high >= low && step && count < MAX_LIST; high -= step)
            values[count++] = high;
    }
    return count;
}

/* ---- what was set ---- */

/* Writes `gpu.N.key` into the state, or takes it out (value NULL). The caller holds the lock. */
static int store(int gpu, const char *key, const char *value)
{
    char path[PATH_MAX], staged[PATH_MAX], line[2 * TEXT], wanted[TEXT], name[TEXT], old[TEXT];
    snprintf(wanted, sizeof wanted, "gpu.%d.%s", gpu, key);
    run_path(path, "state");
    run_path(staged, "state.new");
    if (!value && !find(path, wanted, old))
        return SUCCESS;
    FILE *to = fopen(staged, "we"), *from = fopen(path, "re");
    if (!to) {
        if (from)
            fclose(from);
        return OPERATING_SYSTEM;
    }
    while (from && fgets(line, sizeof line, from))
        if (split(line, name, old) && strcmp(name, wanted) != 0)
            fprintf(to, "%s = %s\n", name, old);
    if (value)
        fprintf(to, "%s = %s\n", wanted, value);
    if (from)
        fclose(from);
    (void)!fchmod(fileno(to), 0666);
    return fclose(to) == 0 && rename(staged, path) == 0 ? SUCCESS : OPERATING_SYSTEM;
}

static int change(int gpu, const char *key, const char *value)
{
    int lock = lock_state();
    int result = lock < 0 ? OPERATING_SYSTEM : store(gpu, key, value);
    if (lock >= 0)
        close(lock);
    return result;
}

/* The driver lets go of every GPU that nothing keeps awake. The caller holds the lock. */
static void deinitialise(void)
{
    char process[TEXT];
    for (int gpu = 0; gpu < gpu_count(); gpu++) {
        double persistence = 0;
        number(gpu, "persistence", &persistence);
        if (persistence || text(gpu, "process.0", process) == SUCCESS)
            continue;
        store(gpu, "power.limit", NULL);
        store(gpu, "lock.sm", NULL);
        store(gpu, "lock.memory", NULL);
        store(gpu, "compute_mode", NULL);
    }
}

/* Every session holds a shared lock on `clients`: who can have it alone is the first or the last. A process that dies lets go of it too. */
static void attach(void)
{
    int lock = lock_state();
    if (lock < 0)
        return;
    client = open_run("clients", O_RDONLY);
    if (client >= 0) {
        if (flock(client, LOCK_EX | LOCK_NB) == 0)
            deinitialise();
        flock(client, LOCK_SH);
    }
    close(lock);
}

static void detach(void)
{
    if (client < 0)
        return;
    int lock = lock_state();
    if (lock >= 0 && flock(client, LOCK_EX | LOCK_NB) == 0)
        deinitialise();
    close(client);
    client = -1;
    if (lock >= 0)
        close(lock);
}

static int logged(const char *call, int gpu, int result, const char *format, ...)
{
    char arguments[TEXT], line[2 * TEXT];
    va_list values;
    va_start(values, format);
    vsnprintf(arguments, sizeof arguments, format, values);
    va_end(values);
    int length = snprintf(line, sizeof line, "%s %d%s -> %d\n", call, gpu, arguments, result);
    int calls = open_run("calls", O_WRONLY | O_APPEND);
    if (calls >= 0) {
        (void)!write(calls, line, (size_t)length);
        close(calls);
    }
    return result;
}

/* ---- the way into every call ---- */

/* The error that the board wants for a call, without its version: `error.nvmlInit`, `gpu.3.error.nvmlDeviceGetMemoryInfo`, `gpu.3.error.*`. */
static int fault(int gpu, const char *call)
{
    char key[TEXT];
    double error = SUCCESS;
    const char *version = strstr(call, "_v");
    snprintf(key, sizeof key, "error.%.*s", (int)(version ? version - call : (long)strlen(call)), call);
    if (number(gpu, key, &error) != SUCCESS && gpu >= 0)
        number(gpu, "error.*", &error);
    return (int)error;
}

static int enter(const char *call)
{
    pthread_mutex_lock(&sessions_mutex);
    int open = sessions;
    pthread_mutex_unlock(&sessions_mutex);
    return open ? fault(-1, call) : UNINITIALIZED;
}

static int enter_gpu(const struct device *device, const char *call, int *gpu)
{
    *gpu = -1;
    int result = enter(call);
    if (result)
        return result;
    if (device < devices || device >= devices + gpu_count())
        return INVALID_ARGUMENT;
    *gpu = (int)(device - devices);
    return fault(*gpu, call);
}

static int enter_setter(const struct device *device, const char *call, int *gpu)
{
    const char *played = getenv("NVML_DOUBLE_EUID");
    int result = enter_gpu(device, call, gpu);
    if (result)
        return result;
    return (played ? atol(played) : (long)geteuid()) == 0 ? SUCCESS : NO_PERMISSION;
}

static int get_whole(const struct device *device, const char *call, const char *key, double scale, unsigned *value)
{
    int gpu, result = enter_gpu(device, call, &gpu);
    return result ? result : whole(gpu, key, scale, value);
}

/* Two states of a mode: now, and after the next reset. */
static int get_modes(const struct device *device, const char *call, const char *key, unsigned *now, unsigned *pending)
{
    char later[TEXT];
    int gpu, result = enter_gpu(device, call, &gpu);
    if (!result)
        result = whole(gpu, key, 1, now);
    if (result)
        return result;
    snprintf(later, sizeof later, "%s.pending", key);
    if (whole(gpu, later, 1, pending))
        *pending = *now;
    return SUCCESS;
}

static int give_text(const char *value, char *buffer, unsigned size)
{
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, value);
    return SUCCESS;
}

static int get_text(const struct device *device, const char *call, const char *key, char *buffer, unsigned size)
{
    char value[TEXT];
    int gpu, result = enter_gpu(device, call, &gpu);
    if (!result)
        result = text(gpu, key, value);
    return result ? result : give_text(value, buffer, size);
}

/* A list, in the two steps that NVML wants: asked with too little room it says how much is needed. */
static int give_list(const void *values, unsigned count, size_t size, unsigned *room, void *buffer)
{
    unsigned given = *room;
    *room = count;
    if (given < count)
        return INSUFFICIENT_SIZE;
    if (count && !buffer)
        return INVALID_ARGUMENT;
    if (count)
        memcpy(buffer, values, count * size);
    return SUCCESS;
}

/* ---- the library ---- */

int nvmlInitWithFlags(unsigned flags)
{
    char path[PATH_MAX];
    (void)flags;
    board_path(path);
    if (access(path, R_OK) != 0)
        return DRIVER_NOT_LOADED;
    int result = fault(-1, "nvmlInit");
    if (result)
        return result;
    pthread_mutex_lock(&sessions_mutex);
    if (sessions++ == 0)
        attach();
    pthread_mutex_unlock(&sessions_mutex);
    return SUCCESS;
}

int nvmlShutdown(void)
{
    pthread_mutex_lock(&sessions_mutex);
    int result = sessions ? SUCCESS : UNINITIALIZED;
    if (sessions && --sessions == 0)
        detach();
    pthread_mutex_unlock(&sessions_mutex);
    return result;
}

const char *nvmlErrorString(int error)
{
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions", "Already Initialized", "Not Found",
        "Insufficient Size", "Insufficient External Power", "Driver Not Loaded", "Timeout", "Interrupt Request Issue",
        "NVML Shared Library Not Found", "Function Not Found", "Corrupted infoROM", "GPU is lost", "GPU requires reset",
        "Blocked by the operating system", "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "vGPU ECC not supported", "Insufficient Resources", "Frequency not supported", "Argument version mismatch",
        "Requested functionality has been deprecated", "System is not ready", "GPU not found", "Invalid state", "Reset type not supported"
    };
    return error >= 0 && error < (int)(sizeof texts / sizeof *texts) ? texts[error] : "Unknown Error";
}

static int system_text(const char *call, const char *key, char *buffer, unsigned size)
{
    char value[TEXT];
    int result = enter(call);
    if (!result)
        result = text(-1, key, value);
    return result ? result : give_text(value, buffer, size);
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) { return system_text(__func__, "driver", version, size); }
int nvmlSystemGetNVMLVersion(char *version, unsigned size) { return system_text(__func__, "nvml", version, size); }

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    char value[TEXT];
    int major, minor, result = system_text(__func__, "cuda", value, sizeof value);
    if (result)
        return result;
    if (sscanf(value, "%d.%d", &major, &minor) != 2)
        return UNKNOWN;
    *version = major * 1000 + minor * 10;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

/* ---- which GPU ---- */

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int result = enter(__func__);
    if (!result)
        *count = (unsigned)gpu_count();
    return result;
}

static int hand_out(int gpu, const char *call, struct device **device)
{
    *device = devices + gpu;
    return fault(gpu, call);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device)
{
    int result = enter(__func__);
    if (result)
        return result;
    return index < (unsigned)gpu_count() ? hand_out((int)index, __func__, device) : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device)
{
    char value[TEXT];
    int result = enter(__func__);
    if (result || !uuid)
        return result ? result : INVALID_ARGUMENT;
    for (int gpu = 0; gpu < gpu_count(); gpu++)
        if (text(gpu, "uuid", value) == SUCCESS && strcmp(value, uuid) == 0)
            return hand_out(gpu, __func__, device);
    return NOT_FOUND;
}

/* "0000:01:00.0", "01:00.0" or with a domain of eight digits, as in NVML; in a board the device's and the subsystem's numbers follow. */
static int read_pci(const char *address, struct pci *pci)
{
    unsigned function;
    memset(pci, 0, sizeof *pci);
    if (sscanf(address, "%x:%x:%x.%x %x %x", &pci->domain, &pci->bus, &pci->device, &function, &pci->id, &pci->subsystem) < 4) {
        pci->domain = 0;
        if (sscanf(address, "%x:%x.%x", &pci->bus, &pci->device, &function) != 3)
            return INVALID_ARGUMENT;
    }
    snprintf(pci->legacy, sizeof pci->legacy, "%04X:%02X:%02X.0", pci->domain & 0xffff, pci->bus & 0xff, pci->device & 0xff);
    snprintf(pci->address, sizeof pci->address, "%08X:%02X:%02X.0", pci->domain, pci->bus & 0xff, pci->device & 0xff);
    return SUCCESS;
}

static int gpu_pci(int gpu, struct pci *pci)
{
    char value[TEXT];
    int result = text(gpu, "pci", value);
    return result ? result : read_pci(value, pci);
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, struct device **device)
{
    struct pci wanted, found;
    int result = enter(__func__);
    if (result || !address || read_pci(address, &wanted))
        return result ? result : INVALID_ARGUMENT;
    for (int gpu = 0; gpu < gpu_count(); gpu++)
        if (gpu_pci(gpu, &found) == SUCCESS && strcmp(wanted.address, found.address) == 0)
            return hand_out(gpu, __func__, device);
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(struct device *device, unsigned *index)
{
    int gpu, result = enter_gpu(device, __func__, &gpu);
    if (!result)
        *index = (unsigned)gpu;
    return result;
}

int nvmlDeviceGetMinorNumber(struct device *device, unsigned *minor)
{
    int gpu, result = enter_gpu(device, __func__, &gpu);
    if (!result && whole(gpu, "minor", 1, minor))
        *minor = (unsigned)gpu;
    return result;
}

int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned size) { return get_text(device, __func__, "uuid", uuid, size); }
int nvmlDeviceGetName(struct device *device, char *name, unsigned size) { return get_text(device, __func__, "name", name, size); }

int nvmlDeviceGetPciInfo_v3(struct device *device, struct pci *pci)
{
    int gpu, result = enter_gpu(device, __func__, &gpu);
    return result ? result : gpu_pci(gpu, pci);
}

int nvmlDeviceGetBoardId(struct device *device, unsigned *id)
{
    struct pci pci;
    int gpu, result = enter_gpu(device, __func__, &gpu);
    if (!result)
        result = gpu_pci(gpu, &pci);
    if (!result)
        *id = pci.domain << 16 | pci.bus << 8;
    return result;
}

int nvmlDeviceGetCudaComputeCapability(struct device *device, int *major, int *minor)
{
    char value[TEXT];
    int result = get_text(device, __func__, "compute_capability", value, sizeof value);
    if (!result && sscanf(value, "%d.%d", major, minor) != 2)
        result = UNKNOWN;
    return result;
}

int nvmlDeviceGetArchitecture(struct device *device, unsigned *number) { return get_whole(device, __func__, "architecture", 1, number); }

/* ---- memory and processes ---- */

static int read_memory(const struct device *device, const char *call, struct memory_v2 *memory)
{
    double total, used = 0, reserved = 0;
    int gpu, result = enter_gpu(device, call, &gpu);
    if (!result)
        result = number(gpu, "memory.total", &total);
    if (result)
        return result;
    number(gpu, "memory.used", &used);
    number(gpu, "memory.reserved", &reserved);
    memory->total = (unsigned long long)total;
    memory->used = (unsigned long long)used;
    memory->reserved = (unsigned long long)reserved;
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(struct device *device, struct memory_v2 *memory)
{
    if (memory->version != (2u << 24 | sizeof *memory))
        return ARGUMENT_VERSION_MISMATCH;
    return read_memory(device, __func__, memory);
}

int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory)
{
    struct memory_v2 found;
    int result = read_memory(device, __func__, &found);
    if (!result)
        *memory = (struct memory){found.total, found.free, found.used + found.reserved};
    return result;
}

/* The process in line N of a GPU: `gpu.0.process.N = 2107 compute 512 MiB /usr/bin/python3`; "unknown" is a memory that NVML does not tell. */
static int read_process(int gpu, int line, struct process *process, char *kind, char *name)
{
    char key[TEXT], value[TEXT];
    unsigned long long mebibytes;
    snprintf(key, sizeof key, "process.%d", line);
    if (text(gpu, key, value))
        return 0;
    *process = (struct process){0, NOT_AVAILABLE, ~0u, ~0u};
    if (sscanf(value, "%u %15s %llu MiB %255[^\n]", &process->pid, kind, &mebibytes, name) == 4)
        process->memory = mebibytes << 20;
    else if (sscanf(value, "%u %15s unknown %255[^\n]", &process->pid, kind, name) != 3)
        return 0;
    return 1;
}

static int get_processes(const struct device *device, const char *call, const char *wanted, unsigned *room, struct process *buffer)
{
    struct process found[TEXT];
    char kind[16], name[TEXT];
    unsigned count = 0;
    int gpu, result = enter_gpu(device, call, &gpu);
    if (result)
        return result;
    for (int line = 0; count < TEXT && read_process(gpu, line, &found[count], kind, name); line++)
        count += strcmp(kind, wanted) == 0;
    return give_list(found, count, sizeof *found, room, buffer);
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *count, struct process *processes)
{
    return get_processes(device, __func__, "compute", count, processes);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *device, unsigned *count, struct process *processes)
{
    return get_processes(device, __func__, "graphics", count, processes);
}

int nvmlSystemGetProcessName(unsigned pid, char *buffer, unsigned size)
{
    struct process process;
    char kind[16], name[TEXT];
    int result = enter(__func__);
    if (result)
        return result;
    for (int gpu = 0; gpu < gpu_count(); gpu++)
        for (int line = 0; read_process(gpu, line, &process, kind, name); line++)
            if (process.pid == pid)
                return give_text(name, buffer, size);
    return NOT_FOUND;
}

/* ---- power: watts in the files, milliwatts here ---- */

static int power_limit(int gpu, unsigned *limit)
{
    return whole(gpu, "power.limit", 1000, limit) == SUCCESS ? SUCCESS : whole(gpu, "power.default", 1000, limit);
}

int nvmlDeviceGetPowerManagementLimit(struct device *device, unsigned *limit)
{
    int gpu, result = enter_gpu(device, __func__, &gpu);
    return result ? result : power_limit(gpu, limit);
}

int nvmlDeviceGetPowerManagementLimitConstraints(struct device *device, unsigned *minimum, unsigned *maximum)
{
    int gpu, result = enter_gpu(device, __func__, &gpu);
    if (!result)
        result = whole(gpu, "power.minimum", 1000, minimum);
    return result ? result : whole(gpu, "power.maximum", 1000, maximum);
}

int nvmlDeviceGetPowerManagementDefaultLimit(struct device *device, unsigned *limit)
{
    return get_whole(device, __func__, "power.default", 1000, limit);
}

int nvmlDeviceGetEnforcedPowerLimit(struct device *device, unsigned *limit)
{
    unsigned set;
    int gpu, result = enter_gpu(device, __func__, &gpu);
    if (result)
        return result;
    if (whole(gpu, "power.enforced", 1000, limit))
        return power_limit(gpu, limit);
    if (power_limit(gpu, &set) == SUCCESS && set < *limit)
        *limit = set;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(struct device *device, unsigned *draw) { return get_whole(device, __func__, "power.draw", 1000, draw); }

int nvmlDeviceSetPowerManagementLimit(struct device *device, unsigned limit)
{
    char value[TEXT];
    unsigned minimum, maximum;
    int gpu, result = enter_setter(device, __func__, &gpu);
    if (!result)
        result = whole(gpu, "power.minimum", 1000, &minimum);
    if (!result)
        result = whole(gpu, "power.maximum", 1000, &maximum);
    if (!result && (limit < minimum || limit > maximum))
        result = INVALID_ARGUMENT;
    if (!result) {
        snprintf(value, sizeof value, "%.3f", limit / 1000.0);
        result = change(gpu, "power.limit", value);
    }
    return logged(__func__, gpu, result, " %u", limit);
}

/* ---- clocks: MHz; the graphics clock is the SM clock ---- */

static const char *const clocks[] = {"sm", "sm", "memory", "video"};

static int lock_of(int gpu, const char *clock, unsigned *low, unsigned *high)
{
    char key[TEXT], value[TEXT];
    snprintf(key, sizeof key, "lock.%s", clock);
    return text(gpu, key, value) == SUCCESS && sscanf(value, "%u %u", low, high) == 2;
}

int nvmlDeviceGetClockInfo(struct device *device, unsigned type, unsigned *clock)
{
    char key[TEXT];
    unsigned low, high;
    int gpu, result = enter_gpu(device, __func__, &gpu);
    if (result || type > 3)
        return result ? result : INVALID_ARGUMENT;
    snprintf(key, sizeof key, "clock.%s", clocks[type]);
    result = whole(gpu, key, 1, clock);
    if (!result && lock_of(gpu, clocks[type], &low, &high))
        *clock = *clock < low ? low : *clock > high ? high : *clock;
    return result;
}

int nvmlDeviceGetMaxClockInfo(struct device *device, unsigned type, unsigned *clock)
{
    char key[TEXT];
    if (type > 3)
        return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "clock.%s.maximum", clocks[type]);
    return get_whole(device, __func__, key, 1, clock);
}

int nvmlDeviceGetSupportedMemoryClocks(struct device *device, unsigned *count, unsigned *buffer)
{
    char list[TEXT];
    unsigned values[MAX_LIST];
    int result = get_text(device, __func__, "clocks.memory", list, sizeof list);
    return result ? result : give_list(values, expand(list, values), sizeof *values, count, buffer);
}

int nvmlDeviceGetSupportedGraphicsClocks(struct device *device, unsigned memory, unsigned *count, unsigned *buffer)
{
    char key[TEXT], list[TEXT];
    unsigned values[MAX_LIST], known = 0;
    int gpu, result = enter_gpu(device, __func__, &gpu);
    if (!result)
        result = text(gpu, "clocks.memory", list);
    if (result)
        return result;
    for (unsigned total = expand(list, values), entry = 0; entry < total; entry++)
        known |= values[entry] == memory;
    if (!known)
        return NOT_FOUND;
    snprintf(key, sizeof key, "clocks.sm.%u", memory);
    if (text(gpu, key, list))
        result = text(gpu, "clocks.sm", list);
    return result ? result : give_list(values, expand(list, values), sizeof *values, count, buffer);
}

/* Real boards take any range up to their highest clock ("-lgc 0,1500" is common) and run at listed clocks within it. */
static int lock_clocks(const struct device *device, const char *call, const char *clock, unsigned low, unsigned high)
{
    char key[TEXT], value[TEXT];
    unsigned values[MAX_LIST], total, maximum;
    int gpu, result = enter_setter(device, call, &gpu);
    snprintf(key, sizeof key, "clock.%s.maximum", clock);
    if (!result)
        result = whole(gpu, key, 1, &maximum);
    if (!result && (low > high || high > maximum))
        result = INVALID_ARGUMENT;
    snprintf(key, sizeof key, "clocks.%s", clock);
    if (!result && text(gpu, key, value) == SUCCESS && (total = expand(value, values)) && high < values[total - 1])
        result = INVALID_ARGUMENT;
    if (!result) {
        snprintf(key, sizeof key, "lock.%s", clock);
        snprintf(value, sizeof value, "%u %u", low, high);
        result = change(gpu, key, value);
    }
    return logged(call, gpu, result, " %u %u", low, high);
}

static int release_clocks(const struct device *device, const char *call, const char *clock)
{
    char key[TEXT];
    unsigned maximum;
    int gpu, result = enter_setter(device, call, &gpu);
    snprintf(key, sizeof key, "clock.%s.maximum", clock);
    if (!result)
        result = whole(gpu, key, 1, &maximum);
    snprintf(key, sizeof key, "lock.%s", clock);
    if (!result)
        result = change(gpu, key, NULL);
    return logged(call, gpu, result, "");
}

int nvmlDeviceSetGpuLockedClocks(struct device *device, unsigned low, unsigned high) { return lock_clocks(device, __func__, "sm", low, high); }
int nvmlDeviceSetMemoryLockedClocks(struct device *device, unsigned low, unsigned high) { return lock_clocks(device, __func__, "memory", low, high); }
int nvmlDeviceResetGpuLockedClocks(struct device *device) { return release_clocks(device, __func__, "sm"); }
int nvmlDeviceResetMemoryLockedClocks(struct device *device) { return release_clocks(device, __func__, "memory"); }

/* ---- modes ---- */

int nvmlDeviceGetPersistenceMode(struct device *device, unsigned *mode) { return get_whole(device, __func__, "persistence", 1, mode); }

int nvmlDeviceSetPersistenceMode(struct device *device, unsigned mode)
{
    int gpu, result = enter_setter(device, __func__, &gpu);
    if (!result && mode > 1)
        result = INVALID_ARGUMENT;
    if (!result)
        result = change(gpu, "persistence", mode ? "on" : "off");
    return logged(__func__, gpu, result, " %u", mode);
}

int nvmlDeviceGetComputeMode(struct device *device, unsigned *mode) { return get_whole(device, __func__, "compute_mode", 1, mode); }

/* 0 default, 2 prohibited, 3 one process; 1 (one thread) is no longer supported. With MIG on there is only the default. */
int nvmlDeviceSetComputeMode(struct device *device, unsigned mode)
{
    char value[TEXT];
    unsigned mig = 0;
    int gpu, result = enter_setter(device, __func__, &gpu);
    if (!result && mode > 3)
        result = INVALID_ARGUMENT;
    if (!result) {
        whole(gpu, "mig", 1, &mig);
        if (mode == 1 || (mig && mode))
            result = NOT_SUPPORTED;
    }
    if (!result) {
        snprintf(value, sizeof value, "%u", mode);
        result = change(gpu, "compute_mode", value);
    }
    return logged(__func__, gpu, result, " %u", mode);
}

int nvmlDeviceGetEccMode(struct device *device, unsigned *now, unsigned *pending) { return get_modes(device, __func__, "ecc", now, pending); }
int nvmlDeviceGetMigMode(struct device *device, unsigned *now, unsigned *pending) { return get_modes(device, __func__, "mig", now, pending); }

/* None is an answer where MIG is off or unknown. */
int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count)
{
    unsigned mig = 0;
    int gpu, result = enter_gpu(device, __func__, &gpu);
    if (result)
        return result;
    *count = 0;
    whole(gpu, "mig", 1, &mig);
    return mig ? whole(gpu, "mig.devices", 1, count) : SUCCESS;
}

/* ---- how it is ---- */

int nvmlDeviceGetPerformanceState(struct device *device, unsigned *state) { return get_whole(device, __func__, "p_state", 1, state); }

int nvmlDeviceGetTemperature(struct device *device, unsigned sensor, unsigned *celsius)
{
    return sensor ? INVALID_ARGUMENT : get_whole(device, __func__, "temperature", 1, celsius);
}

int nvmlDeviceGetTemperatureV(struct device *device, struct temperature *temperature)
{
    if (temperature->version != (1u << 24 | sizeof *temperature))
        return ARGUMENT_VERSION_MISMATCH;
    return nvmlDeviceGetTemperature(device, temperature->sensor, (unsigned *)&temperature->celsius);
}

int nvmlDeviceGetCurrentClocksEventReasons(struct device *device, unsigned long long *reasons)
{
    unsigned found;
    int result = get_whole(device, __func__, "throttle_reasons", 1, &found);
    if (!result)
        *reasons = found;
    return result;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(struct device *device, unsigned long long *reasons)
{
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}

int nvmlDeviceGetUtilizationRates(struct device *device, struct utilization *rates)
{
    char value[TEXT];
    int result = get_text(device, __func__, "utilization", value, sizeof value);
    if (!result && sscanf(value, "%u %u", &rates->gpu, &rates->memory) != 2)
        result = UNKNOWN;
    return result;
}

int nvmlDeviceGetDisplayActive(struct device *device, unsigned *mode) { return get_whole(device, __func__, "display.active", 1, mode); }
int nvmlDeviceGetDisplayMode(struct device *device, unsigned *mode) { return get_whole(device, __func__, "display.mode", 1, mode); }

/* ---- between GPUs ---- */

/* `key.A.B` with the lower number first, else `key` for all pairs. */
static int pair(int one, int other, const char *key, unsigned *value)
{
    char name[TEXT];
    snprintf(name, sizeof name, "%s.%d.%d", key, one < other ? one : other, one < other ? other : one);
    return whole(-1, name, 1, value) == SUCCESS ? SUCCESS : whole(-1, key, 1, value);
}

static int enter_pair(const struct device *device, const struct device *peer, const char *call, int *one, int *other)
{
    int result = enter_gpu(device, call, one);
    if (!result)
        result = enter_gpu(peer, call, other);
    return !result && *one == *other ? INVALID_ARGUMENT : result;
}

int nvmlDeviceGetTopologyCommonAncestor(struct device *device, struct device *peer, unsigned *level)
{
    int one, other, result = enter_pair(device, peer, __func__, &one, &other);
    return result ? result : pair(one, other, "topology", level);
}

/* `p2p.nvlink` and the like, else `p2p` for every way of access. */
int nvmlDeviceGetP2PStatus(struct device *device, struct device *peer, unsigned way, unsigned *status)
{
    static const char *const ways[] = {"p2p.read", "p2p.write", "p2p.nvlink", "p2p.atomics", "p2p.prop"};
    int one, other, result = enter_pair(device, peer, __func__, &one, &other);
    if (result || way >= sizeof ways / sizeof *ways)
        return result ? result : INVALID_ARGUMENT;
    return pair(one, other, ways[way], status) == SUCCESS ? SUCCESS : pair(one, other, "p2p", status);
}

/* The far end of a link, empty if it is not connected. */
static int far_end(const struct device *device, const char *call, unsigned link, char *address)
{
    char key[TEXT];
    unsigned links = 0;
    int gpu, result = enter_gpu(device, call, &gpu);
    if (!result)
        result = whole(gpu, "nvlinks", 1, &links);
    if (result || link >= links)
        return result ? result : INVALID_ARGUMENT;
    snprintf(key, sizeof key, "nvlink.%u", link);
    if (text(gpu, key, address))
        *address = '\0';
    return SUCCESS;
}

int nvmlDeviceGetNvLinkState(struct device *device, unsigned link, unsigned *active)
{
    char address[TEXT];
    int result = far_end(device, __func__, link, address);
    if (!result)
        *active = *address != '\0';
    return result;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct device *device, unsigned link, struct pci *pci)
{
    char address[TEXT];
    int result = far_end(device, __func__, link, address);
    if (result)
        return result;
    return *address ? read_pci(address, pci) : NOT_SUPPORTED;
}
