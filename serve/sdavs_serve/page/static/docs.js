// Draw the API's description; nothing is asked of a validator elsewhere, and a key lives as long as the tab shows it.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  validatorUrl: null,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
});
