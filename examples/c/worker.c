/* Works five times a second while this pod leads, and nowhere else; told by a file, without a request. */
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

struct status { long long leader, from, until, token; };

/* What the sidecar last wrote; all zero, which is not leader, when there is nothing to read. */
static struct status read_status(void) {
    struct status status = {0};
    char key[32];
    long long value;
    FILE *file = fopen("status.env", "r");
    while (file && fscanf(file, " LEASEHOLD_%31[A-Z_]=%lld", key, &value) == 2)
        *(!strcmp(key, "LEADER") ? &status.leader : !strcmp(key, "VALID_FROM") ? &status.from :
          !strcmp(key, "VALID_UNTIL") ? &status.until : !strcmp(key, "TOKEN") ? &status.token : &value) = value;
    if (file) fclose(file);
    return status;
}

/* Whether a step may begin now. Its times are hundredths of a second of this clock, which /proc/uptime shows. */
static int leads(struct status status) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    long long now = t.tv_sec * 100LL + t.tv_nsec / 10000000;
    return status.leader == 1 && status.from <= now && now < status.until;
}

/* One transaction, which does nothing if the store has seen a newer token. 1 done, 0 refused, -1 failed. */
static int step(sqlite3 *store, long long token, const char *pod) {
    char *sql = sqlite3_mprintf("BEGIN IMMEDIATE;"
        "INSERT INTO fence (name, token) VALUES ('work', %lld)"
        "  ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token < excluded.token;"
        "INSERT INTO work (token, pod) SELECT token, %Q FROM fence WHERE name = 'work' AND token = %lld;"
        "COMMIT", token, pod, token);
    int done = sqlite3_exec(store, sql, NULL, NULL, NULL) == SQLITE_OK ? sqlite3_changes(store) : -1;
    if (done < 0) sqlite3_exec(store, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_free(sql);
    return done;
}

static const char *setting(const char *name, const char *unless) { return getenv(name) ? getenv(name) : unless; }

int main(void) {
    sqlite3 *store;
    if (sqlite3_open(setting("STORE", "store.db"), &store) != SQLITE_OK) return 1;
    sqlite3_busy_timeout(store, 5000);
    if (chdir(setting("LEASEHOLD_DIR", "/run/leasehold"))) return 1;
    int alive = open("alive", O_RDONLY | O_CLOEXEC);
    if (flock(alive, LOCK_SH)) return 1; /* this pod leads only while this process lives, which holds the lock */
    for (;; nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL)) {
        struct status status = read_status();
        if (!leads(status)) continue;
        const char *how[] = {"failed", "refused", "worked"};
        printf("%s under token %lld\n", how[1 + step(store, status.token, setting("POD_NAME", "pod"))], status.token);
        fflush(stdout);
    }
}
