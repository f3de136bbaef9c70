// Works five times a second while this pod leads, and nowhere else.
import {hostname} from 'node:os'
import {setTimeout as sleep} from 'node:timers/promises'
import pg from 'pg'

const url = process.env.LEASEHOLD_URL ?? 'http://127.0.0.1:4040'
const pod = process.env.POD_NAME ?? hostname()
const store = new pg.Client(process.env.STORE ?? 'postgres://localhost/postgres')
await store.connect()

// The fencing token, and until when by this process's own clock a step may begin.
async function term() {
  const asked = performance.now()                              // before the question
  try {
    const reply = await fetch(url + '/v1/leader', {signal: AbortSignal.timeout(1000)})
    const answer = await reply.json()
    return {token: answer.fencing_token, until: asked + answer.valid_for_ms}  // 0 ms: not leader
  } catch {
    return {until: asked}                                      // no answer is a no
  }
}

// Open for as long as this process lives: this pod leads only meanwhile.
async function session() {
  for (;; await sleep(200)) {
    try {
      for await (const _ of (await fetch(url + '/v1/session')).body);
    } catch {}                                                 // the sidecar is not there, or not yet again
  }
}

// One transaction, which does nothing if the store has seen a newer token. Says whether it did.
async function step(token) {
  await store.query('BEGIN')
  await store.query(`INSERT INTO fence (name, token) VALUES ('work', $1)
    ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token < excluded.token`, [token])
  const done = await store.query(`INSERT INTO work (token, pod)
    SELECT token, $1 FROM fence WHERE name = 'work' AND token = $2`, [pod, token])
  await store.query('COMMIT')
  return done.rowCount === 1
}

session()
for (;; await sleep(200)) {
  const {token, until} = await term()
  if (performance.now() < until) console.log(await step(token) ? 'worked' : 'refused', 'under token', token)
}
