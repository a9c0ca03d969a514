'use strict'
// Part of a stand-in for Prisma's native engines, for tests only: a database's address as Prisma writes it, and errors as Prisma words them.

// postgresql://user:password@host:port/name?schema=...&host=<socket directory>&sslmode=...
function settings(address) {
  const url = new URL(address)
  const asked = url.searchParams
  return {
    schema: asked.get('schema') || 'public',
    user: decodeURIComponent(url.username) || undefined,
    password: decodeURIComponent(url.password) || undefined,
    host: asked.get('host') || url.hostname || 'localhost',
    port: Number(url.port || 5432),
    database: decodeURIComponent(url.pathname.slice(1)) || 'postgres',
    max: Number(asked.get('connection_limit') || 5),
    connectionTimeoutMillis: 1000 * Number(asked.get('pool_timeout') || 10),
    ssl: tls(asked),
    // the adapter cuts the zone off times, so that they must be in UTC
    options: `-c TimeZone=UTC -c search_path="${asked.get('schema') || 'public'}"`,
  }
}

function tls(asked) {
  if (!['require', 'verify-ca', 'verify-full'].includes(asked.get('sslmode'))) return undefined
  const strict = asked.get('sslaccept') === 'strict' || asked.get('sslmode').startsWith('verify')
  const authority = asked.get('sslcert') || asked.get('sslrootcert')
  return { rejectUnauthorized: strict, ca: authority ? require('fs').readFileSync(authority) : undefined }
}

// The address that a schema names: env("DATABASE_URL"), mostly.
function address(schema, environment = process.env) {
  const source = /datasource\s+(\w+)\s*\{([^}]*)\}/.exec(schema)
  if (!source) throw known('P1012', 'The schema has no datasource.')
  const overrides = environment.OVERWRITE_DATASOURCES && JSON.parse(environment.OVERWRITE_DATASOURCES)
  const override = (overrides || []).find((one) => one.name === source[1])
  const [, variable, literal] = /\burl\s*=\s*(?:env\(\s*"([^"]+)"\s*\)|"([^"]+)")/.exec(source[2]) || []
  const found = override ? override.url : literal || environment[variable]
  if (!found) throw known('P1012', `Environment variable not found: ${variable}.`)
  return found
}

// An error as Prisma's clients know it: a code, a message.
function known(code, message, meta = {}) {
  return Object.assign(new Error(message), { about: { is_panic: false, message, meta, error_code: code } })
}

// What the driver says of a connection, in Prisma's words.
function connectionError(error, config) {
  if (error.about) return error
  const where = `\`${config.host}:${config.port}\``
  const text = error.message || error.code || String(error)
  if (error.code === '3D000') return known('P1003', `Database \`${config.database}\` does not exist on the database server at ${where}.`)
  if (error.code === '28P01') return known('P1000', `Authentication failed against database server at ${where}.`)
  if (/timeout exceeded when trying to connect/.test(text)) return known('P2024', `Timed out fetching a new connection from the connection pool. (${text})`)
  if (/terminated|closed|ended/i.test(text)) return known('P1017', `Server has closed the connection. (${text})`)
  return known('P1001', `Can't reach database server at ${where}\n\nPlease make sure your database server is running at ${where}. (${text})`)
}

module.exports = { settings, address, known, connectionError }
