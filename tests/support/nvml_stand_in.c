/* A stand-in for NVIDIA's management library, for machines without a GPU: the few functions that
 * the probe calls, with the names, layouts and codes that nvml-wrapper-sys declares.
 *
 * What it answers is read anew at each call from the file STATE (given with -D when it is built):
 *
 *   device UUID TOTAL FREE        one more GPU; sizes in bytes
 *   compute GPU PROCESS BYTES     a process on the GPU with that index; -1 bytes: not available
 *   graphics GPU PROCESS BYTES
 *   fail FUNCTION CODE            that function returns this code
 *
 * Starts and shutdowns are noted in the file STATE.calls. A function is left out of the library by
 * giving it another name with -D. */

#include <stdio.h>
#include <string.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999,
    MOST = 16
};

typedef int result_t;
typedef void *device_t; /* the GPU's index, plus one */

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} memory_v2_t;

typedef struct {
    unsigned int pid;
    unsigned long long used_gpu_memory;
    unsigned int gpu_instance_id, compute_instance_id;
} process_t;

typedef struct {
    unsigned int devices;
    char uuid[MOST][97];
    unsigned long long total[MOST], free[MOST];
    result_t failure;
} state_t;

static int started;

/* The state, with the failure meant for this function. */
static state_t look(const char *function)
{
    state_t state = {0};
    char line[256], name[97];
    unsigned long long total, free;
    int code;
    FILE *file = fopen(STATE, "r");
    if (!file) {
        state.failure = UNKNOWN;
        return state;
    }
    if (!started && strcmp(function, "nvmlInit_v2"))
        state.failure = UNINITIALIZED;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "fail %96s %d", name, &code) == 2) {
            if (!strcmp(name, function))
                state.failure = code;
        } else if (state.devices < MOST
                   && sscanf(line, "device %96s %llu %llu", name, &total, &free) == 3) {
            strcpy(state.uuid[state.devices], name);
            state.total[state.devices] = total;
            state.free[state.devices] = free;
            state.devices++;
        }
    }
    fclose(file);
    return state;
}

static void note(const char *call)
{
    FILE *file = fopen(STATE ".calls", "a");
    if (file) {
        fprintf(file, "%s\n", call);
        fclose(file);
    }
}

static unsigned int index_of(device_t device)
{
    return (unsigned int)(size_t)device - 1;
}

result_t nvmlInit_v2(void)
{
    result_t failure = look("nvmlInit_v2").failure;
    note("start");
    if (failure == SUCCESS)
        started++;
    return failure;
}

result_t nvmlShutdown(void)
{
    note("shutdown");
    if (!started)
        return UNINITIALIZED;
    started--;
    return SUCCESS;
}

result_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    state_t state = look("nvmlDeviceGetCount_v2");
    *count = state.devices;
    return state.failure;
}

result_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t *device)
{
    state_t state = look("nvmlDeviceGetHandleByIndex_v2");
    if (state.failure)
        return state.failure;
    if (index >= state.devices)
        return INVALID_ARGUMENT;
    *device = (device_t)((size_t)index + 1);
    return SUCCESS;
}

result_t nvmlDeviceGetHandleByUUID(const char *uuid, device_t *device)
{
    state_t state = look("nvmlDeviceGetHandleByUUID");
    unsigned int index;
    if (state.failure)
        return state.failure;
    for (index = 0; index < state.devices; index++) {
        if (!strcmp(uuid, state.uuid[index])) {
            *device = (device_t)((size_t)index + 1);
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

result_t nvmlDeviceGetUUID(device_t device, char *uuid, unsigned int length)
{
    state_t state = look("nvmlDeviceGetUUID");
    if (state.failure)
        return state.failure;
    if (strlen(state.uuid[index_of(device)]) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(uuid, state.uuid[index_of(device)]);
    return SUCCESS;
}

result_t nvmlDeviceGetMemoryInfo_v2(device_t device, memory_v2_t *memory)
{
    state_t state = look("nvmlDeviceGetMemoryInfo_v2");
    unsigned int index = index_of(device);
    if (state.failure)
        return state.failure;
    if (memory->version != (sizeof *memory | 2u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    memory->total = state.total[index];
    memory->free = state.free[index];
    memory->used = memory->total - memory->free;
    memory->reserved = 0;
    return SUCCESS;
}

/* As in the original: with too little room, only how many there are. */
static result_t list(const char *function, const char *kind, device_t device, unsigned int *count,
                     process_t *processes)
{
    result_t failure = look(function).failure;
    char line[256], word[16];
    unsigned int room = *count, found = 0, gpu, pid;
    long long bytes;
    FILE *file = failure ? NULL : fopen(STATE, "r");
    if (!file)
        return failure ? failure : UNKNOWN;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%15s %u %u %lld", word, &gpu, &pid, &bytes) != 4
            || strcmp(word, kind) || gpu != index_of(device))
            continue;
        if (processes && found < room)
            processes[found] = (process_t){pid, (unsigned long long)bytes, ~0u, ~0u};
        found++;
    }
    fclose(file);
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

result_t nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned int *count,
                                                 process_t *processes)
{
    return list("nvmlDeviceGetComputeRunningProcesses_v3", "compute", device, count, processes);
}

result_t nvmlDeviceGetGraphicsRunningProcesses_v3(device_t device, unsigned int *count,
                                                  process_t *processes)
{
    return list("nvmlDeviceGetGraphicsRunningProcesses_v3", "graphics", device, count, processes);
}
