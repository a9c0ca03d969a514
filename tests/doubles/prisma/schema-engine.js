'use strict'
// A stand-in for Prisma's native schema-engine, for tests only: `migrate deploy`, `migrate resolve` and `db execute`. It applies the files of the
// migrations as they are and keeps _prisma_migrations as the native engine does. It compares no schemas.
if (process.argv.includes('--version')) {
  console.log(`schema-engine-cli ${process.env.PRISMA_STAND_IN_COMMIT}`)
  process.exit(0)
}

const crypto = require('crypto')
const fs = require('fs')
const path = require('path')
const readline = require('readline')
const { Client } = require('pg')
const { address, settings, known, connectionError } = require('./database')

const LOCK = 72707369 // the native engine's
const LEDGER = `CREATE TABLE _prisma_migrations (id VARCHAR(36) PRIMARY KEY NOT NULL, checksum VARCHAR(64) NOT NULL, finished_at TIMESTAMPTZ,
  migration_name VARCHAR(255) NOT NULL, logs TEXT, rolled_back_at TIMESTAMPTZ, started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  applied_steps_count INTEGER NOT NULL DEFAULT 0)`
const after = (...names) => process.argv.find((_word, index) => names.includes(process.argv[index - 1]))

async function connected(url, work) {
  const { schema, max, ...config } = settings(url)
  const client = new Client(config)
  try {
    await client.connect()
  } catch (error) {
    throw connectionError(error, config)
  }
  try {
    return await work(client, schema)
  } finally {
    await client.end()
  }
}

const ours = () => address(fs.readFileSync(after('-d', '--datamodel'), 'utf8'))

function migrations(directory) {
  const holds = (name) => fs.existsSync(path.join(directory, name, 'migration.sql'))
  return fs.existsSync(directory) ? fs.readdirSync(directory).filter(holds).sort() : []
}

function migration(directory, name) {
  const sql = fs.readFileSync(path.join(directory, name, 'migration.sql'))
  return { sql: sql.toString('utf8'), sum: crypto.createHash('sha256').update(sql).digest('hex') }
}

async function ledger(client) {
  const { rows } = await client.query("SELECT to_regclass('_prisma_migrations') AS there")
  return rows[0].there ? (await client.query('SELECT * FROM _prisma_migrations ORDER BY started_at')).rows : null
}

async function lock(client) {
  await client.query("SET lock_timeout = '10s'")
  await client.query('SELECT pg_advisory_lock($1)', [LOCK]).catch(() => {
    throw known('P1002', `Timed out trying to acquire a postgres advisory lock (SELECT pg_advisory_lock(${LOCK})). Elapsed: 10000ms.`)
  })
  await client.query('SET lock_timeout = 0')
}

async function applyAll(client, schema, directory) {
  await lock(client)
  let rows = await ledger(client)
  if (!rows) {
    const { rowCount } = await client.query('SELECT FROM pg_tables WHERE schemaname = $1 LIMIT 1', [schema])
    if (rowCount) throw known('P3005', 'The database schema is not empty. Read more about how to baseline an existing production database: https://pris.ly/d/migrate-baseline')
    await client.query(LEDGER)
    rows = []
  }
  const failed = rows.find((row) => !row.finished_at && !row.rolled_back_at)
  if (failed)
    throw known('P3009', `migrate found failed migrations in the target database, new migrations will not be applied. The \`${failed.migration_name}\` migration started at ${failed.started_at.toISOString()} failed`)
  const done = new Set(rows.filter((row) => row.finished_at && !row.rolled_back_at).map((row) => row.migration_name))
  const applied = migrations(directory).filter((name) => !done.has(name))
  for (const name of applied) await applyOne(client, directory, name)
  return { appliedMigrationNames: applied }
}

async function applyOne(client, directory, name) {
  const { sql, sum } = migration(directory, name)
  const id = crypto.randomUUID()
  await client.query('INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ($1, $2, $3)', [id, sum, name])
  try {
    await client.query(sql) // the whole file at once, as the native engine sends it
  } catch (error) {
    const said = `Migration name: ${name}\n\nDatabase error code: ${error.code}\n\nDatabase error:\n${error.severity}: ${error.message}\n`
    await client.query('UPDATE _prisma_migrations SET logs = $2 WHERE id = $1', [id, said])
    throw known('P3018', `A migration failed to apply. New migrations cannot be applied before the error is recovered from.\n\n${said}`)
  }
  await client.query('UPDATE _prisma_migrations SET applied_steps_count = 1, finished_at = now() WHERE id = $1', [id])
}

const FAILED = 'migration_name = $1 AND finished_at IS NULL AND rolled_back_at IS NULL'
const methods = {
  listMigrationDirectories: ({ migrationsDirectoryPath }) => ({ migrations: migrations(migrationsDirectoryPath) }),
  getDatabaseVersion: () => connected(ours(), async (client) => (await client.query('SELECT version()')).rows[0].version),
  ensureConnectionValidity: () => connected(ours(), () => ({})),
  applyMigrations: ({ migrationsDirectoryPath }) => connected(ours(), (client, schema) => applyAll(client, schema, migrationsDirectoryPath)),
  markMigrationApplied: ({ migrationsDirectoryPath, migrationName: name }) =>
    connected(ours(), async (client) => {
      const rows = await ledger(client)
      if (!rows) await client.query(LEDGER)
      if (rows?.some((row) => row.migration_name === name && row.finished_at && !row.rolled_back_at))
        throw known('P3008', `The migration \`${name}\` is already recorded as applied in the database.`)
      await client.query(`UPDATE _prisma_migrations SET rolled_back_at = now() WHERE ${FAILED}`, [name])
      const values = [crypto.randomUUID(), migration(migrationsDirectoryPath, name).sum, name]
      await client.query('INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at) VALUES ($1, $2, $3, now())', values)
      return {}
    }),
  markMigrationRolledBack: ({ migrationName: name }) =>
    connected(ours(), async (client) => {
      const { rowCount } = await client.query(`UPDATE _prisma_migrations SET rolled_back_at = now() WHERE ${FAILED}`, [name])
      if (!rowCount) throw known('P3012', `Migration \`${name}\` cannot be rolled back because it is not in a failed state.`)
      return {}
    }),
  dbExecute: ({ datasourceType, script }) => connected(datasourceType.url || ours(), (client) => client.query(script).then(() => null)),
}

// ---- schema-engine cli --datasource URL can-connect-to-database
async function commandLine() {
  const given = after('--datasource', '-d')
  try {
    if (!process.argv.includes('can-connect-to-database')) throw known('P9999', `the stand-in does not know: ${process.argv.at(-1)}`)
    await connected(given.includes('://') ? given : Buffer.from(given, 'base64').toString('utf8'), () => null)
    console.error('Connection successful')
  } catch (error) {
    console.error(JSON.stringify({ level: 'ERROR', fields: error.about || { message: error.message, error_code: 'P1000' }, target: 'schema_engine::logger' }))
    process.exitCode = 1
  }
}

// ---- JSON-RPC on standard input and output
async function conversation() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (!line.trim()) continue
    const { id, method, params } = JSON.parse(line)
    let said
    try {
      if (!methods[method]) throw known('P9999', `the stand-in does not know ${method}`)
      said = { result: await methods[method](params || {}) }
    } catch (error) {
      const about = error.about || { is_panic: false, message: error.message, meta: {} }
      said = { error: { code: 4466, message: 'An error happened. Check the data field for details.', data: about } }
    }
    process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', id, ...said })}\n`)
  }
}

if (process.argv[2] === 'cli') commandLine()
else conversation()
