'use strict'
// Part of a stand-in for Prisma's native engines, for tests only: the Python client asks in GraphQL, the engine's WASM build takes Prisma's JSON
// protocol. Values stay text all the way, so that no number loses a digit.
const { parse } = require('graphql')
const { known } = require('./database')

// Longer prefixes first: findUniqueXOrThrow is not a findUnique.
const ACTIONS = [
  [/^(findUnique|findFirst)(\w+)OrThrow$/, (prefix) => `${prefix}OrThrow`],
  [/^(findUnique|findFirst|findMany|createMany|createOne|updateMany|updateOne|upsertOne|deleteMany|deleteOne|aggregate|groupBy)(\w+)$/, (prefix) => prefix],
]
// Options of a filter on a Json field that are not JSON themselves.
const NOT_JSON = new Set(['path', 'mode', 'string_contains', 'string_starts_with', 'string_ends_with'])
const RELATION_FILTERS = new Set(['is', 'isNot', 'some', 'every', 'none'])
const COMBINED = new Set(['AND', 'OR', 'NOT'])

// Model -> field -> type, out of a schema.
function readModels(schema) {
  const blocks = schema.matchAll(/^\s*model\s+(\w+)\s*\{([\s\S]*?)^\s*\}/gm)
  return new Map([...blocks].map(([, name, body]) => [name, new Map([...body.matchAll(/^[ \t]*(\w+)[ \t]+(\w+)/gm)].map((line) => [line[1], line[2]]))]))
}

class Translator {
  constructor(models) {
    this.models = models
  }

  // Returns the query as JSON text, and the name under which its answer is expected.
  translate(graphql) {
    const [root] = parse(graphql, { noLocation: true }).definitions[0].selectionSet.selections
    const name = root.name.value
    const { action, model } = this.operation(name)
    const query = `{"arguments":${this.args(root.arguments, model)},"selection":${this.selection(root.selectionSet, model)}}`
    const json = `{${model ? `"modelName":${JSON.stringify(model)},` : ''}"action":"${action}","query":${query}}`
    return { json, key: root.alias ? root.alias.value : name }
  }

  operation(name) {
    if (name === 'queryRaw' || name === 'executeRaw') return { action: name }
    for (const [pattern, action] of ACTIONS) {
      const [, prefix, model] = pattern.exec(name) || []
      if (this.models.has(model)) return { action: action(prefix), model }
    }
    throw known('P2009', `the stand-in does not know the operation ${name}`)
  }

  selection(set, model) {
    if (!set) return '{}'
    return object(set.selections, (field) => {
      if (!field.selectionSet && !field.arguments?.length) return 'true'
      const inner = this.related(model, field.name.value)
      return `{"arguments":${this.args(field.arguments, inner)},"selection":${this.selection(field.selectionSet, inner)}}`
    })
  }

  args(args, model) {
    return object(args || [], (argument) => {
      const name = argument.name.value
      if (model && (name === 'where' || name === 'cursor')) return this.where(argument.value, model)
      if (model && (name === 'data' || name === 'create' || name === 'update')) return this.data(argument.value, model)
      return literal(argument.value)
    })
  }

  where(node, model) {
    return each(node, (one) =>
      members(one, (name, value) => {
        const related = this.related(model, name)
        if (this.type(model, name) === 'Json') return jsonFilter(value)
        if (related) return this.relationFilter(value, related)
        return COMBINED.has(name) ? this.where(value, model) : literal(value)
      }),
    )
  }

  relationFilter(node, model) {
    return members(node, (name, value) => {
      if (RELATION_FILTERS.has(name) || COMBINED.has(name)) return this.where(value, model)
      if (this.type(model, name) === 'Json') return jsonFilter(value)
      const related = this.related(model, name)
      return related ? this.where(value, related) : literal(value)
    })
  }

  data(node, model) {
    return each(node, (one) =>
      members(one, (name, value) => {
        const related = this.related(model, name)
        if (this.type(model, name) === 'Json') return jsonValue(value)
        return related ? members(value, (verb, what) => this.nested(verb, what, related)) : literal(value)
      }),
    )
  }

  // What is done to the rows of a relation: create, connect, update, ...
  nested(verb, node, model) {
    const has = (one, name) => one.kind === 'ObjectValue' && one.fields.some((field) => field.name.value === name)
    const parts = (one) =>
      members(one, (name, value) => {
        if (name === 'where') return this.where(value, model)
        return ['data', 'create', 'update'].includes(name) ? this.data(value, model) : literal(value)
      })
    if (verb === 'create') return this.data(node, model)
    if (verb === 'update') return each(node, (one) => (has(one, 'data') && (has(one, 'where') || !this.type(model, 'data')) ? parts(one) : this.data(one, model)))
    if (['upsert', 'connectOrCreate', 'updateMany', 'createMany'].includes(verb)) return each(node, parts)
    return this.where(node, model) // connect, disconnect, set, delete, deleteMany
  }

  type(model, field) {
    return this.models.get(model)?.get(field)
  }

  related(model, field) {
    const type = this.type(model, field)
    return this.models.has(type) ? type : undefined
  }
}

function object(fields, text) {
  return `{${fields.map((field) => `${JSON.stringify(field.name.value)}:${text(field)}`).join(',')}}`
}

function members(node, text) {
  return node.kind === 'ObjectValue' ? object(node.fields, (field) => text(field.name.value, field.value)) : literal(node)
}

function each(node, text) {
  return node.kind === 'ListValue' ? `[${node.values.map(text).join(',')}]` : text(node)
}

function literal(node) {
  switch (node.kind) {
    case 'IntValue':
    case 'FloatValue':
      return node.value
    case 'StringValue':
    case 'EnumValue':
      return JSON.stringify(node.value)
    case 'BooleanValue':
      return String(node.value)
    case 'NullValue':
      return 'null'
    case 'ListValue':
      return each(node, literal)
    case 'ObjectValue':
      return members(node, (_name, value) => literal(value))
  }
  throw known('P2009', `the stand-in does not know GraphQL's ${node.kind}`)
}

// A Json field takes JSON text, and nothing else.
function jsonValue(node) {
  if (node.kind === 'StringValue') return `{"$type":"Json","value":${JSON.stringify(node.value)}}`
  if (node.kind === 'NullValue') throw known('P2009', 'Unable to match input value to any allowed input type for the field. Parse errors: [A value is required but not set]')
  throw known('P2009', `Invalid argument type. ${node.kind} was given for a Json field, JSON text was expected.`)
}

function jsonFilter(node) {
  if (node.kind !== 'ObjectValue') return each(node, jsonValue)
  return members(node, (name, value) => {
    if (NOT_JSON.has(name)) return literal(value)
    return name === 'not' ? jsonFilter(value) : each(value, jsonValue)
  })
}

module.exports = { Translator, readModels }
