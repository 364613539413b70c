// The pages' samples in Node, by the openai package; each prints one line of JSON that the Python test looks at.
import OpenAI from "openai";

const [baseURL, apiKey] = [process.env.WAYPOST_BASE_URL, process.env.WAYPOST_KEY];
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const model = "route/deepseek-v3.2";
const user = (content) => [{ role: "user", content }];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the current weather for a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

async function failing(request) {
  try {
    const answer = await client.chat.completions.create(request);
    if (request.stream) for await (const _ of answer);
  } catch (error) {
    const { status, code, type, param, message, requestID } = error;
    return { kind: error.constructor.name, status, code, type, param, message, requestID };
  }
  return { kind: "no error" };
}

async function limited() {
  const two = new OpenAI({ baseURL, apiKey: process.env.WAYPOST_KEY_OF_TWO, maxRetries: 2 });
  const request = { model: "gpt-4o-mini", messages: user("Hello") };
  for (let n = 0; n < 2; n++) await two.chat.completions.create(request);
  try {
    await two.chat.completions.create(request);
  } catch (error) {
    const { status, code, type, headers } = error;
    return { kind: error.constructor.name, status, code, type, retryAfter: headers.get("retry-after") };
  }
}

const samples = {
  limited,
  async cost() {
    const { usage } = await client.chat.completions.create({ model, messages: user("Hello"), usage: { include: true } });
    return usage;
  },
  async quickSetup() {
    return await client.chat.completions.create({
      model,
      messages: [
        { role: "system", content: "You are a senior backend engineer." },
        { role: "user", content: "Explain the token bucket algorithm." },
      ],
      temperature: 0.2,
    });
  },
  async presets() {
    const named = await client.chat.completions.create({ model: "@preset/pirate", messages: user("Hello") });
    const field = { model: "gpt-4o-mini", preset: "pirate:1", messages: user("Hello"), stream: true };
    let last;
    for await (const chunk of await client.chat.completions.create(field)) last = chunk;
    const unknown = await failing({ model: "@preset/nobodys", messages: user("Hello") });
    return { named, last, unknown };
  },
  async streaming() {
    const stream = await client.chat.completions.create({ model, messages: user("Write a haiku."), stream: true });
    const [pieces, ids, models] = [[], new Set(), new Set()];
    let last;
    for await (const chunk of stream) {
      pieces.push(chunk.choices[0].delta.content ?? "");
      ids.add(chunk.id);
      models.add(chunk.model);
      last = chunk;
    }
    return { text: pieces.join(""), ids: [...ids], models: [...models], last };
  },
  async usage() {
    const stream = await client.chat.completions.create({
      model,
      messages: user("Hello"),
      stream: true,
      stream_options: { include_usage: true },
    });
    const usages = [];
    for await (const chunk of stream) usages.push([chunk.choices.length, chunk.usage ?? null]);
    return usages;
  },
  async capital() {
    return await client.chat.completions.create({
      model: "gpt-4o-mini",
      messages: user("What is the capital of France?"),
    });
  },
  async tools() {
    const messages = user("What's the weather in Lisbon?");
    return await client.chat.completions.create({ model, messages, tools: [weather], tool_choice: "auto" });
  },
  async streamedTools() {
    const messages = user("Weather in Tokyo and Paris, please");
    const runner = client.chat.completions.stream({ model, messages, tools: [weather] });
    return await runner.finalChatCompletion();
  },
  async structured() {
    const schema = {
      type: "object",
      properties: { name: { type: "string" }, guests: { type: "array", items: { type: "string" } } },
      required: ["name", "guests"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "event", strict: true, schema } };
    return await client.chat.completions.create({ model, messages: user("A party"), response_format });
  },
  async reasoning() {
    return await client.chat.completions.create({ model, messages: user("Why?"), reasoning_effort: "high" });
  },
  async headers() {
    const { data, response } = await client.chat.completions.create({ model, messages: user("Hi") }).withResponse();
    return { id: data.id, requestId: response.headers.get("x-request-id"), provider: response.headers.get("x-provider") };
  },
  async models() {
    const listed = [];
    for await (const found of client.models.list()) listed.push(found.id);
    return { listed, one: await client.models.retrieve(model) };
  },
  async parallel() {
    const one = async (number) => {
      let text = "";
      const messages = user(`nonce:node-${number}`);
      for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
        text += chunk.choices[0].delta.content ?? "";
      }
      return text;
    };
    return await Promise.all(Array.from({ length: 20 }, (_, number) => one(number)));
  },
  async errors() {
    return {
      invalidModel: await failing({ model: "route/none", messages: user("x") }),
      notAllowed: await failing({ model: "route/secret", messages: user("x") }),
      down: await failing({ model: "route/down", messages: user("x") }),
      downStreaming: await failing({ model: "route/down", messages: user("x"), stream: true }),
      cut: await failing({ model: "sim/cut-after-4+gap-5", messages: user("x"), stream: true }),
    };
  },
  async badKey() {
    const stranger = new OpenAI({ baseURL, apiKey: "rk_" + "0".repeat(64), maxRetries: 0 });
    try {
      await stranger.chat.completions.create({ model, messages: user("x") });
    } catch (error) {
      return { kind: error.constructor.name, status: error.status, code: error.code };
    }
  },
};

for (const [name, run] of Object.entries(samples)) {
  let outcome;
  try {
    outcome = { value: await run() };
  } catch (error) {
    outcome = { error: String(error) };
  }
  console.log(JSON.stringify({ name, ...outcome }));
}
