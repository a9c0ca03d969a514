'use strict'
// A stand-in for Prisma's native query-engine, for tests only: its command line and its HTTP interface, as prisma-client-py 0.11 uses them, in front
// of Prisma's own query engine (5.17) compiled to WASM and node-postgres. Metrics are empty; parameters of raw SQL go as text.
if (process.argv.includes('--version')) {
  console.log(`query-engine ${process.env.PRISMA_STAND_IN_COMMIT}`)
  process.exit(0)
}

const fs = require('fs')
const http = require('http')
const path = require('path')
const { Pool, types } = require('pg')
const { PrismaPg } = require('@prisma/adapter-pg')
const { bindAdapter } = require('@prisma/driver-adapter-utils')
const { address, settings, connectionError } = require('./database')
const { Translator, readModels } = require('./graphql')

const RUNTIME = path.join(path.dirname(require.resolve('@prisma/client/package.json')), 'runtime')
const option = (name, otherwise) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : otherwise)

// The adapter knows no `name` and no "char", which columns of the catalogs have: the native engine gives them as text.
const AS_TEXT = new Map([[18, 25], [19, 25], [1002, 1009], [1003, 1009]])
for (const list of [1002, 1003]) types.setTypeParser(list, types.getTypeParser(1009))
const queryable = Object.getPrototypeOf(PrismaPg.prototype)
const performIO = queryable.performIO
queryable.performIO = async function (query) {
  const result = await performIO.call(this, query)
  for (const field of (result.ok && result.value.fields) || []) field.dataTypeID = AS_TEXT.get(field.dataTypeID) ?? field.dataTypeID
  return result
}

async function wasmEngine(schema, adapter) {
  const runtime = require(path.join(RUNTIME, 'query_engine_bg.postgresql.js'))
  const wasm = await WebAssembly.compile(fs.readFileSync(path.join(RUNTIME, 'query_engine_bg.postgresql.wasm')))
  runtime.__wbg_set_wasm((await WebAssembly.instantiate(wasm, { './query_engine_bg.js': runtime })).exports)
  const options = { datamodel: schema, env: process.env, logQueries: false, ignoreEnvVarErrors: true, datasourceOverrides: {}, logLevel: 'error' }
  const engine = new runtime.QueryEngine({ ...options, configDir: process.cwd(), engineProtocol: 'json' }, (line) => console.error(line), adapter)
  await engine.connect('{}')
  return engine
}

// ---- answers: the JSON protocol's tagged values become GraphQL's bare ones

function bare(value) {
  if (Array.isArray(value)) return value.map(bare)
  if (!value || typeof value !== 'object') return value
  if (typeof value.$type === 'string' && 'value' in value) return value.$type === 'Raw' ? value.value : bare(value.value)
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, bare(inner)]))
}

// Until Prisma 5.8 each value of a raw row had its type with it; prisma-client-py 0.11 wants that.
function rawRows({ columns, types: kinds, rows }) {
  const cell = (kind, value) => {
    if (value === null) return { prisma__type: 'null', prisma__value: null }
    if (kind.endsWith('-array')) return { prisma__type: 'array', prisma__value: value.map((one) => cell(kind.slice(0, -'-array'.length), one)) }
    return { prisma__type: kind, prisma__value: value }
  }
  return rows.map((row) => Object.fromEntries(row.map((value, index) => [columns[index], cell(kinds[index], value)])))
}

function errors(about) {
  return { errors: [{ error: about.message, user_facing_error: about }] }
}

class Engine {
  constructor(wasm, adapter, translator, config) {
    Object.assign(this, { wasm, adapter, translator, config })
  }

  async query(body, transaction) {
    const asked = JSON.parse(body)
    if (!asked.batch) {
      const { json, key } = this.translator.translate(asked.query)
      return this.answer(JSON.parse(await this.wasm.query(json, '{}', transaction)), key)
    }
    const parts = asked.batch.map((one) => this.translator.translate(one.query))
    const batch = `{"batch":[${parts.map((one) => one.json).join(',')}]${asked.transaction ? ',"transaction":{}' : ''}}`
    const result = JSON.parse(await this.wasm.query(batch, '{}', transaction))
    if (result.batchResult) result.batchResult = result.batchResult.map((one, index) => this.answer(one, parts[index].key))
    return this.worded(result)
  }

  async transaction(id, verb, body) {
    if (id !== 'start') return JSON.parse((await (verb === 'commit' ? this.wasm.commitTransaction(id, '{}') : this.wasm.rollbackTransaction(id, '{}'))) || '{}')
    const { max_wait = 2000, timeout = 5000, isolation_level } = JSON.parse(body)
    const result = JSON.parse(await this.wasm.startTransaction(JSON.stringify({ max_wait, timeout, isolation_level }), '{}'))
    return result.error_code ? this.worded(errors(result)) : result
  }

  answer(result, key) {
    if (result.data) {
      const [[name, value]] = Object.entries(result.data)
      result.data = { [key]: name === 'queryRaw' ? rawRows(bare(value)) : bare(value) }
    }
    return this.worded(result)
  }

  // What the driver threw comes back as P2036 and a number under which the adapter keeps it.
  worded(result) {
    for (const error of result.errors || []) {
      if (error.user_facing_error?.error_code !== 'P2036') continue
      const thrown = this.adapter.errorRegistry.consumeError(error.user_facing_error.meta?.id)?.error || new Error('unknown')
      Object.assign(error, errors(connectionError(thrown, this.config).about).errors[0])
    }
    return result
  }
}

function serve(engine) {
  return http.createServer((request, response) => {
    const chunks = []
    request.on('data', (chunk) => chunks.push(chunk))
    request.on('end', async () => {
      const body = Buffer.concat(chunks).toString('utf8')
      const [, first, id, verb] = request.url.split('?')[0].split('/')
      let result
      try {
        if (first === 'transaction') result = await engine.transaction(id, verb, body)
        else if (first === 'metrics') result = { counters: [], gauges: [], histograms: [] }
        else result = request.method === 'GET' ? { status: 'ok' } : await engine.query(body, request.headers['x-transaction-id'])
      } catch (error) {
        if (!error.about) console.error(error.stack, body.slice(0, 2000))
        result = errors(error.about || { is_panic: false, message: `stand-in: ${error.message || error}`, meta: {}, error_code: 'P2009' })
      }
      response.writeHead(200, { 'content-type': 'application/json' })
      response.end(JSON.stringify(result))
    })
  })
}

async function main() {
  const schema = fs.readFileSync(process.env.PRISMA_DML_PATH, 'utf8')
  const { schema: place, ...config } = settings(address(schema))
  const pool = new Pool(config)
  pool.on('error', (error) => console.error(`a connection was lost: ${error.message}`))
  await pool.query('SELECT 1').catch((error) => Promise.reject(connectionError(error, config))) // as the native engine, it does not start without
  const adapter = bindAdapter(new PrismaPg(pool, { schema: place }))
  const wasm = await wasmEngine(schema, adapter)
  const server = serve(new Engine(wasm, adapter, new Translator(readModels(schema)), config))
  server.keepAliveTimeout = 75000
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0))
  server.listen(Number(option('-p', option('--port', 4466))), option('--host', '127.0.0.1'))
}

main().catch((error) => {
  console.error(JSON.stringify(error.about || { is_panic: false, message: error.message, error_code: 'P1012' }))
  process.exit(1)
})
